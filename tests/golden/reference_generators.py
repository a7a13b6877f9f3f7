"""Plain PyTorch definitions of the consistency and the score model and of a matching model's likelihood, beside
reference_models.py.

Written from Song et al. 2023 (consistency models), Song et al. 2021 (score SDEs) and Chen et al. 2018 (the
instantaneous change of variables).  Flow time runs from 0 (noise) to 1 (data).
"""
import torch
import torch.nn as nn
import torch.nn.functional as F

import reference_models as ref


class Consistency(ref.FlowMatching):
    """f(x, t) = x + (1 - t) F(x, t): the end at t = 1 of the path through x; F has the velocity net's names."""

    def end_point(self, x, t, condition):
        return x + (1 - t)[:, None] * self(x, t, condition)

    def loss(self, x1, x0, s, scales, condition, teacher=None):
        """|f(x_s, s) - f(x_r, r)|^2 with the second held fixed, r = s + 1 / scales: along x1 - x0, or by one step of
        Heun along the teacher's velocity."""
        h = 1 / scales
        x = (1 - s)[:, None] * x0 + s[:, None] * x1
        with torch.no_grad():
            slope = x1 - x0
            if teacher is not None:
                slope = teacher(x, s, condition)
                slope = (slope + teacher(x + h * slope, s + h, condition)) / 2
            target = self.end_point(x + h * slope, s + h, condition)
        return F.mse_loss(self.end_point(x, s, condition), target)


class ScoreModel(nn.Module):
    """The noise in x_t = alpha x1 + sigma noise of the variance-preserving SDE, whose own time is 1 - t:
    beta(tau) = beta_min + tau (beta_max - beta_min), alpha^2 = exp(-int_0^tau beta), sigma^2 = 1 - alpha^2."""

    def __init__(self, condition_dim, action_dim, time_dim, hidden, time_scale, beta_min, beta_max):
        super().__init__()
        inner = ref.FlowMatching(condition_dim, action_dim, time_dim, hidden, time_scale)
        self.time_embed, self.noise_net = inner.time_embed, inner.velocity_net
        self.beta_min, self.beta_max = beta_min, beta_max

    def forward(self, x, t, condition):
        return self.noise_net(ref.join(x, condition, self.time_embed(t)))

    def integral(self, t):
        """Of beta from 0 to tau = 1 - t, a column."""
        tau = (1 - t)[:, None]
        return self.beta_min * tau + (self.beta_max - self.beta_min) * tau**2 / 2

    def sigma(self, t):
        return (-torch.expm1(-self.integral(t))).sqrt()

    def loss(self, x1, noise, t, condition):
        x = (-self.integral(t) / 2).exp() * x1 + self.sigma(t) * noise
        return F.mse_loss(self(x, t, condition), noise)

    def velocity(self, x, t, condition):
        """The probability flow dx/dtau = -beta (x + score) / 2 (equation 13 with f = -beta x / 2, g^2 = beta), in flow
        time."""
        beta = self.beta_min + (1 - t)[:, None] * (self.beta_max - self.beta_min)
        score = -self(x, t, condition) / self.sigma(t)
        return beta * (x + score) / 2

    def generate(self, noise, condition, n_steps, solver, end):
        def f(t, state):
            return (self.velocity(state[0], state[0].new_full((len(noise),), t), condition),)
        return ref.odeint(f, (noise,), 0.0, end, n_steps, solver)[0]


def log_prob(model, x, condition, probe, n_steps, solver):
    """log N(x(0); 0, I) - int_0^1 tr dv/dx dt along the path that ends in x; the trace exact where probe is None."""
    def f(t, state):
        at = state[0] if state[0].requires_grad else state[0].detach().requires_grad_(True)
        v = model(at, at.new_full((len(at),), t), condition)
        if probe is not None:
            pulled, = torch.autograd.grad(v, at, probe, create_graph=True)
            return v, (pulled * probe).sum(-1)
        columns = range(at.shape[1])
        return v, sum(torch.autograd.grad(v[:, i].sum(), at, create_graph=True)[0][:, i] for i in columns)
    z, integral = ref.odeint(f, (x, x.new_zeros(len(x))), 1.0, 0.0, n_steps, solver)
    return ref.standard_normal_log_prob(z) + integral
