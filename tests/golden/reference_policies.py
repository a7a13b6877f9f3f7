"""Plain PyTorch definitions of what sees, reads and acts, beside reference_models.py.

Written from system 11 of the tutorial with its defects repaired: the LSTM is read at the last state of both directions,
padding masked; the refiner learns from what the flow makes of the training path.  Spatial softmax as in Levine et al.
2016, FiLM as in Perez et al. 2018.
"""
import torch
import torch.nn as nn
import torch.nn.functional as F

import reference_models as ref


class SpatialSoftmax(nn.Module):
    """(N, C, H, W) to (N, 2 C): mean x and y, in [-1, 1], of each channel under the softmax of its values."""

    def __init__(self, height, width):
        super().__init__()
        self.height, self.width = height, width

    def forward(self, x):
        xs = torch.linspace(-1, 1, self.width, dtype=x.dtype)
        ys = torch.linspace(-1, 1, self.height, dtype=x.dtype)
        weights = x.flatten(2).softmax(-1).view_as(x)
        return torch.stack([(weights.sum(2) * xs).sum(-1), (weights.sum(3) * ys).sum(-1)], -1).flatten(1)


def lstm(layer, x, lengths=None, state=None):
    """output, h, c; steps beyond a row's length give zeros."""
    if lengths is None:
        output, (h, c) = layer(x, state)
        return output, h, c
    packed = nn.utils.rnn.pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
    output, (h, c) = layer(packed, state)
    return nn.utils.rnn.pad_packed_sequence(output, batch_first=True, total_length=x.shape[1])[0], h, c


PRESETS = {
    "tutorial": dict(channels=[64, 128, 256], kernel=7, pooling="average", vision_width=768, vocabulary=10000,
                     embedding=768, lstm_hidden=384, film=False, fusion_hidden=512, features=256, hidden=512),
    "tiny": dict(channels=[16, 32, 64], kernel=5, pooling="spatial_softmax", vision_width=0, vocabulary=64,
                 embedding=32, lstm_hidden=32, film=True, fusion_hidden=256, features=128, hidden=256),
}
PAD_ID = {"tutorial": None, "tiny": 0}


class VisionEncoder(nn.Sequential):
    def __init__(self, height, width, channels, kernel, pooling, vision_width, words):
        layers, last = [], 3
        for i, c in enumerate(channels):
            k = kernel if i == 0 else 3
            layers += [nn.Conv2d(last, c, k, 2, k // 2), nn.ReLU()]
            last, height, width = c, (height + 1) // 2, (width + 1) // 2
        if pooling == "average":
            layers += [nn.AdaptiveAvgPool2d(1), nn.Flatten()]
        else:
            layers += [SpatialSoftmax(height, width), nn.Flatten()]
            last *= 2
        if vision_width:
            layers.append(nn.Linear(last, vision_width))
            last = vision_width
        super().__init__(*layers)
        self.count, self.width = len(layers), last
        self.film = nn.ModuleList([nn.Linear(words, 2 * c) for c in channels] if words else [])

    def forward(self, x, words):
        for i in range(self.count):
            x = self[i](x)
            if len(self.film) and isinstance(self[i], nn.Conv2d):
                scale, shift = self.film[i // 2](words)[:, :, None, None].chunk(2, 1)
                x = x * (1 + scale) + shift
        return x


class FlowVLA(nn.Module):
    """The horizon's actions side by side as one vector."""

    def __init__(self, preset, action_dim, horizon, height, width, cameras=1, robot_dim=0, auxiliary=0.0):
        super().__init__()
        p = PRESETS[preset]
        words, chunk = 2 * p["lstm_hidden"], action_dim * horizon
        self.pad_id, self.weight = PAD_ID[preset], auxiliary
        self.vision_encoder = VisionEncoder(height, width, *(p[k] for k in ("channels", "kernel", "pooling",
                                                                            "vision_width")), words * p["film"])
        self.language_encoder = nn.Sequential(
            nn.Embedding(p["vocabulary"], p["embedding"], padding_idx=self.pad_id),
            nn.LSTM(p["embedding"], p["lstm_hidden"], bidirectional=True, batch_first=True))
        self.fusion = ref.mlp([cameras * self.vision_encoder.width + words + robot_dim, p["fusion_hidden"],
                               p["features"]], nn.ReLU)
        self.action_flow = ref.FlowMatching(p["features"], chunk, 128, p["hidden"], 1000.0)
        self.refiner = ref.mlp([chunk + p["features"], 128, chunk], nn.ReLU)
        if auxiliary:
            self.auxiliary = nn.Linear(p["features"], chunk)

    def condition(self, images, tokens, robot=None):
        lengths = None
        if self.pad_id is not None:
            lengths = torch.tensor([1 + max(i for i, t in enumerate(row) if t != self.pad_id) for row in tokens.tolist()])
        _, h, _ = lstm(self.language_encoder[1], self.language_encoder[0](tokens), lengths)
        words = torch.cat([h[0], h[1]], -1)
        cameras = images.chunk(images.shape[1] // 3, 1)
        seen = [self.vision_encoder(image, words) for image in cameras]
        return self.fusion(torch.cat([*seen, words] + ([robot] if robot is not None else []), -1))

    def losses(self, chunk, c, x0, t):
        """Of the flow with the auxiliary regression, and of the refiner, which holds everything else fixed."""
        xt = (1 - t[:, None]) * x0 + t[:, None] * chunk
        v = self.action_flow(xt, t, c)
        loss = F.mse_loss(v, chunk - x0)
        if self.weight:
            loss = loss + self.weight * F.mse_loss(self.auxiliary(c), chunk)
        estimate = (xt + (1 - t[:, None]) * v).detach()
        return loss, F.mse_loss(self.refine(estimate, c.detach()), chunk)

    def refine(self, chunk, c):
        return chunk + self.refiner(torch.cat([chunk, c], -1))


class HierarchicalFlow(nn.Module):
    def __init__(self, condition_dim, action_dim, sequence_length, latent_dim, decoder_hidden, hidden, time_dim):
        super().__init__()
        self.high_level_flow = ref.FlowMatching(condition_dim, latent_dim, time_dim, hidden, 1000.0)
        self.low_level_flow = ref.FlowMatching(decoder_hidden + condition_dim, action_dim, time_dim, hidden, 1000.0)
        self.sequence_decoder = nn.LSTM(latent_dim, decoder_hidden, 2, batch_first=True)
        self.action_encoder = nn.LSTM(action_dim, decoder_hidden, batch_first=True)
        self.to_latent = nn.Linear(decoder_hidden, latent_dim)
        self.length, self.latent_dim = sequence_length, latent_dim

    def latent(self, actions):
        z = self.to_latent(self.action_encoder(actions)[1][0][-1])
        return F.layer_norm(z, z.shape[-1:])

    def steps(self, z, condition):
        """(N, L, decoder_hidden + C): what conditions the low-level flow at each step."""
        decoded = self.sequence_decoder(z[:, None].expand(-1, self.length, -1))[0]
        return torch.cat([decoded, condition[:, None].expand(-1, self.length, -1)], -1)

    def loss(self, actions, condition, noise, time):
        """noise (N, latent + L A) and time (N, 1 + L): the high level's first."""
        z = self.latent(actions)
        high = self.high_level_flow.loss(z.detach(), noise[:, :self.latent_dim], time[:, 0], condition)
        steps = self.steps(z, condition).flatten(0, 1)
        low = self.low_level_flow.loss(actions.flatten(0, 1), noise[:, self.latent_dim:].reshape(len(steps), -1),
                                       time[:, 1:].flatten(), steps)
        return high + low

    def generate(self, condition, noise, n_steps):
        z = self.high_level_flow.generate(noise[:, :self.latent_dim], condition, n_steps, "euler")
        steps = self.steps(z, condition)
        first = noise[:, self.latent_dim:].view(len(z), self.length, -1)
        return torch.stack([self.low_level_flow.generate(first[:, i], steps[:, i], n_steps, "euler")
                            for i in range(self.length)], 1)
