"""Plain PyTorch definitions of the models that the golden files pin.

Written from the formulas, for reading: no speed, no options beyond what the golden cases use.  The module trees give the
state-dict names and layouts that flowgrad reads and writes.  Flow time runs from 0 (noise) to 1 (data).
"""
import math

import torch
import torch.nn as nn
import torch.nn.functional as F


def standard_normal_log_prob(z):
    return -0.5 * (z**2).sum(-1) - 0.5 * z.shape[-1] * math.log(2 * math.pi)


def mlp(widths, act):
    layers = []
    for i, (a, b) in enumerate(zip(widths, widths[1:])):
        layers.append(nn.Linear(a, b))
        if i < len(widths) - 2:
            layers.append(act())
    return nn.Sequential(*layers)


def join(*parts):
    """Columns side by side; absent parts (None) are left out."""
    return torch.cat([p for p in parts if p is not None], -1)


class ResidualBlock(nn.Module):
    """x + Linear(SiLU(Linear(x)))."""

    def __init__(self, dim):
        super().__init__()
        self.block = nn.Sequential(nn.Linear(dim, dim), nn.SiLU(), nn.Linear(dim, dim))

    def forward(self, x):
        return x + self.block(x)


class TimeEmbedding(nn.Module):
    """t (N) -> (N, dim): sin(t f_j) for all j, then cos(t f_j); f_j = scale * 10000^(-j / (half - 1)).

    The frequencies are computed in float64 and rounded once; the angle is one product t * f_j.
    """

    def __init__(self, dim, scale):
        super().__init__()
        half = dim // 2
        j = torch.arange(half, dtype=torch.float64)
        self.frequencies = scale * torch.exp(-math.log(10000.0) * j / max(half - 1, 1))

    def forward(self, t):
        angle = t[:, None] * self.frequencies.to(t.dtype)
        return torch.cat([angle.sin(), angle.cos()], -1)


class PlanarFlow(nn.Module):
    """x = z + u_hat tanh(w.z + b), u_hat = u + (softplus(w.u) - 1 - w.u) w / |w|^2, so w.u_hat > -1."""

    def __init__(self, dim):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(dim))
        self.bias = nn.Parameter(torch.zeros(1))
        self.scale = nn.Parameter(torch.zeros(dim))

    def u_hat(self):
        wu = self.weight @ self.scale
        return self.scale + (F.softplus(wu) - 1 - wu) * self.weight / (self.weight @ self.weight)

    def forward(self, z, condition=None):
        u = self.u_hat()
        h = torch.tanh(z @ self.weight + self.bias)
        return z + h[:, None] * u, torch.log1p((1 - h**2) * (self.weight @ u))

    def inverse(self, x, condition=None):
        u = self.u_hat()
        k = self.weight @ u
        c = x @ self.weight + self.bias
        s = self.solve(k.detach(), c.detach())
        # One Newton step with the derivative held constant: its value is s, its gradient is the implicit one.
        slope = 1 + k.detach() * (1 - torch.tanh(s) ** 2)
        s = s - (s + k * torch.tanh(s) - c - (s + k * torch.tanh(s) - c).detach()) / slope
        h = torch.tanh(s)
        return x - h[:, None] * u, -torch.log1p((1 - h**2) * k)

    @staticmethod
    def solve(k, c):
        """Root s of s + k tanh(s) = c, in float64 whatever the model's dtype, by bisection and then Newton."""
        dtype, k, c = c.dtype, k.double(), c.double()
        lo, hi = c - k.abs() - 1, c + k.abs() + 1
        for _ in range(60):
            mid = (lo + hi) / 2
            below = mid + k * torch.tanh(mid) < c
            lo, hi = torch.where(below, mid, lo), torch.where(below, hi, mid)
        s = (lo + hi) / 2
        for _ in range(3):
            h = torch.tanh(s)
            s = s - (s + k * h - c) / (1 + k * (1 - h**2))
        assert (s + k * torch.tanh(s) - c).abs().max() < 1e-13 * (1 + c.abs().max() + k.abs())
        return s.to(dtype)


class CouplingLayer(nn.Module):
    """mask 1 = passed through; x = z exp(s) + t on the rest; s = c tanh(raw / c), or raw where c = 0.

    Both nets read the D masked inputs and then the condition.
    """

    def __init__(self, dim, hidden, bound, mask, condition_dim=0):
        super().__init__()
        self.register_buffer("mask", mask)
        widths = [dim + condition_dim, hidden, hidden, dim]
        self.scale_net, self.translate_net = mlp(widths, nn.ReLU), mlp(widths, nn.ReLU)
        self.bound = bound

    def scale_and_shift(self, y, condition):
        inputs = join(y * self.mask, condition)
        raw = self.scale_net(inputs)
        s = self.bound * torch.tanh(raw / self.bound) if self.bound else raw
        return s * (1 - self.mask), self.translate_net(inputs) * (1 - self.mask)

    def forward(self, z, condition=None):
        s, t = self.scale_and_shift(z, condition)
        return z * s.exp() + t, s.sum(-1)

    def inverse(self, x, condition=None):
        s, t = self.scale_and_shift(x, condition)
        return (x - t) * (-s).exp(), -s.sum(-1)


class Chain(nn.Module):
    """Layers applied in order from base to data; log-dets add up."""

    def __init__(self, layers):
        super().__init__()
        self.flows = nn.ModuleList(layers)

    def forward(self, z, condition=None):
        total = 0
        for layer in self.flows:
            z, log_det = layer(z, condition)
            total = total + log_det
        return z, total

    def inverse(self, x, condition=None):
        total = 0
        for layer in reversed(self.flows):
            x, log_det = layer.inverse(x, condition)
            total = total + log_det
        return x, total


def alternating_mask(dim, i):
    """Layer 0 keeps (passes through) the even indices, layer 1 the odd ones, and so on."""
    return (torch.arange(dim) % 2 == i % 2).double()


def normalizing_flow(dim, n_flows):
    return Chain([PlanarFlow(dim) for _ in range(n_flows)])


def real_nvp(dim, n_flows, hidden, log_scale_bound, condition_dim=0):
    return Chain([CouplingLayer(dim, hidden, log_scale_bound, alternating_mask(dim, i), condition_dim)
                  for i in range(n_flows)])


# ---------------------------------------------------------------- ordinary differential equations
def combine(state, scale, slope):
    return tuple(a + scale * b for a, b in zip(state, slope))


def ode_step(f, t, h, y, method):
    """One step of a tuple-valued state.  rk4 is the classical one (weights 1 2 2 1), not the 3/8 rule."""
    k1 = f(t, y)
    if method == "euler":
        return combine(y, h, k1)
    if method == "midpoint":
        return combine(y, h, f(t + h / 2, combine(y, h / 2, k1)))
    if method == "heun":
        return combine(combine(y, h / 2, k1), h / 2, f(t + h, combine(y, h, k1)))
    if method == "rk4":
        k2 = f(t + h / 2, combine(y, h / 2, k1))
        k3 = f(t + h / 2, combine(y, h / 2, k2))
        k4 = f(t + h, combine(y, h, k3))
        for w, k in ((1, k1), (2, k2), (2, k3), (1, k4)):
            y = combine(y, h * w / 6, k)
        return y
    raise ValueError(method)


def odeint(f, y, t0, t1, n_steps, method):
    h = (t1 - t0) / n_steps
    for i in range(n_steps):
        y = ode_step(f, t0 + i * h, h, y, method)
    return y


class ODEFunc(nn.Module):
    """Linear(D+1)-Tanh-Linear-Tanh-Linear(D) of (x, t); time is the last input column."""

    def __init__(self, dim, hidden):
        super().__init__()
        self.net = mlp([dim + 1, hidden, hidden, dim], nn.Tanh)

    def forward(self, t, x):
        return self.net(torch.cat([x, x.new_full((len(x), 1), t)], -1))


class ContinuousNormalizingFlow(nn.Module):
    """d log_det / dt = +trace; forward integrates 0 -> 1, inverse 1 -> 0.

    probe None: the exact trace; probe (N, D): v -> probe . (J probe), one probe for the whole solve.
    """

    def __init__(self, dim, hidden, solver, n_steps):
        super().__init__()
        self.ode_func, self.solver, self.n_steps = ODEFunc(dim, hidden), solver, n_steps

    def field(self, probe):
        def f(t, state):
            x = state[0] if state[0].requires_grad else state[0].detach().requires_grad_(True)
            v = self.ode_func(t, x)
            if probe is not None:
                vjp, = torch.autograd.grad(v, x, probe, create_graph=True)
                return v, (vjp * probe).sum(-1)
            rows = [torch.autograd.grad(v[:, i].sum(), x, create_graph=True)[0][:, i] for i in range(x.shape[1])]
            return v, sum(rows)
        return f

    def solve(self, x, probe, t0, t1):
        return odeint(self.field(probe), (x, x.new_zeros(len(x))), t0, t1, self.n_steps, self.solver)

    def forward(self, z, probe=None):
        return self.solve(z, probe, 0.0, 1.0)

    def inverse(self, x, probe=None):
        return self.solve(x, probe, 1.0, 0.0)


# ---------------------------------------------------------------- generators
class FlowMatching(nn.Module):
    """Velocity of (x, condition, embedded time); x_t = (1 - t) x0 + t x1, target x1 - x0."""

    def __init__(self, condition_dim, action_dim, time_dim, hidden, time_scale):
        super().__init__()
        self.time_embed = nn.Sequential(TimeEmbedding(time_dim, time_scale), nn.Linear(time_dim, 2 * time_dim),
                                        nn.SiLU(), nn.Linear(2 * time_dim, time_dim))
        self.velocity_net = nn.Sequential(nn.Linear(action_dim + condition_dim + time_dim, hidden), nn.SiLU(),
                                          ResidualBlock(hidden), ResidualBlock(hidden), nn.Linear(hidden, action_dim))

    def forward(self, x, t, condition):
        return self.velocity_net(join(x, condition, self.time_embed(t)))

    def loss(self, x1, x0, t, condition):
        xt = (1 - t[:, None]) * x0 + t[:, None] * x1
        return F.mse_loss(self(xt, t, condition), x1 - x0)

    def generate(self, noise, condition, n_steps, solver):
        def f(t, state):
            return (self(state[0], state[0].new_full((len(noise),), t), condition),)
        return odeint(f, (noise,), 0.0, 1.0, n_steps, solver)[0]


def noise_schedule(name, n):
    """betas (n): `linear` 1e-4..0.02, or `squared_cosine` with offset 0.008 and betas capped at 0.999."""
    if name == "linear":
        return torch.linspace(1e-4, 0.02, n, dtype=torch.float64)
    def alpha_bar(u):
        return math.cos((u + 0.008) / 1.008 * math.pi / 2) ** 2
    return torch.tensor([min(1 - alpha_bar((i + 1) / n) / alpha_bar(i / n), 0.999) for i in range(n)],
                        dtype=torch.float64)


class DiffusionPolicy(nn.Module):
    """Noise prediction from (x, state, t / n_timesteps); step 0 = nearly clean.

    Coefficients are taken from the float64 schedule and rounded once: 1 - alpha_bar in float32 loses half its digits.
    """

    def __init__(self, state_dim, action_dim, n_timesteps, schedule, hidden):
        super().__init__()
        self.denoiser = nn.Sequential(nn.Linear(action_dim + state_dim + 1, hidden), nn.ReLU(), ResidualBlock(hidden),
                                      ResidualBlock(hidden), nn.Linear(hidden, action_dim))
        betas = noise_schedule(schedule, n_timesteps)
        self.beta, self.alpha, self.alpha_bar = betas, 1 - betas, torch.cumprod(1 - betas, 0)
        self.register_buffer("betas", self.beta)
        self.register_buffer("alphas", self.alpha)
        self.register_buffer("alphas_cumprod", self.alpha_bar)
        self.n_timesteps = n_timesteps

    def forward(self, x, t, state):
        if state is not None and len(state) != len(x):
            state = state.expand(len(x), -1)
        return self.denoiser(join(x, state, (t.to(x.dtype) / self.n_timesteps)[:, None]))

    def loss(self, x0, noise, t, state):
        ab = self.alpha_bar[t][:, None]
        xt = ab.sqrt().to(x0.dtype) * x0 + (1 - ab).sqrt().to(x0.dtype) * noise
        return F.mse_loss(self(xt, t, state), noise)

    def predict(self, x, t, state):
        return self(x, torch.full((len(x),), t), state)

    def ddpm(self, noise, step_noise, state, variance, clip=None):
        """step_noise[t] (N, A) is added after step t, scaled by sigma_t; step_noise[0] is never used."""
        x = noise
        for t in reversed(range(self.n_timesteps)):
            e, b, a, ab = self.predict(x, t, state), self.beta[t].item(), self.alpha[t].item(), self.alpha_bar[t].item()
            prev = self.alpha_bar[t - 1].item() if t else 1.0
            if clip is None:
                x = (x - b / (1 - ab) ** 0.5 * e) / a**0.5
            else:
                x0 = ((x - (1 - ab) ** 0.5 * e) / ab**0.5).clamp(-clip, clip)
                x = prev**0.5 * b / (1 - ab) * x0 + a**0.5 * (1 - prev) / (1 - ab) * x
            if t:
                sigma2 = b if variance == "beta" else b * (1 - prev) / (1 - ab)
                x = x + sigma2**0.5 * step_noise[t]
        return x

    def ddim(self, noise, state, timesteps, eta=0.0, step_noise=None):
        """timesteps descend; after the last one alpha_bar is 1.  step_noise[t] belongs to the step taken at t."""
        x = noise
        for i, t in enumerate(timesteps):
            e, ab = self.predict(x, t, state), self.alpha_bar[t].item()
            prev = self.alpha_bar[timesteps[i + 1]].item() if i + 1 < len(timesteps) else 1.0
            sigma = eta * ((1 - prev) / (1 - ab)) ** 0.5 * (1 - ab / prev) ** 0.5
            x0 = (x - (1 - ab) ** 0.5 * e) / ab**0.5
            x = prev**0.5 * x0 + (1 - prev - sigma**2) ** 0.5 * e
            if eta:
                x = x + sigma * step_noise[t]
        return x
