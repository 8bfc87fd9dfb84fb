"""Networks that know nothing of muP, for the tests of `scale`, `check_module` and `blame`."""

import torch
import torch.nn.functional as F
from torch import nn

VOCAB, CONTEXT = 11, 8


def perceptron(width, readout=nn.Linear):
    return nn.Sequential(
        nn.Linear(6, width), nn.Tanh(), nn.Linear(width, 3 * width), nn.ReLU(), nn.Linear(3 * width, width), nn.ReLU(),
        readout(width, 5, bias=False),
    )  # fmt: skip


def convolutional(width, readout=nn.Linear):
    return nn.Sequential(
        nn.Conv2d(2, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU(inplace=True),
        nn.Conv2d(width, width, 3, padding=1, groups=width), nn.Conv2d(width, 2 * width, 3, padding=1, groups=2),
        nn.BatchNorm2d(2 * width), nn.ReLU(inplace=True), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        readout(2 * width, 5, bias=False),
    )  # fmt: skip


class Block(nn.Module):
    def __init__(self, width, heads):
        super().__init__()
        self.heads, self.ln1, self.ln2 = heads, nn.LayerNorm(width), nn.LayerNorm(width)
        self.q, self.k, self.v, self.o = (nn.Linear(width, width) for _ in range(4))
        self.up, self.down = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)

    def forward(self, x):
        h = self.ln1(x)
        q, k, v = (f(h).unflatten(-1, (self.heads, -1)).transpose(1, 2) for f in (self.q, self.k, self.v))
        a = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.o(a.transpose(1, 2).flatten(-2))
        return x + self.down(F.gelu(self.up(self.ln2(x))))


class GPT(nn.Module):
    def __init__(self, width, heads=None, tied=False, readout=nn.Linear):
        super().__init__()
        self.wte, self.wpe = nn.Embedding(VOCAB, width), nn.Embedding(CONTEXT, width)
        self.blocks = nn.ModuleList([Block(width, heads or width // 8)])
        self.ln_f, self.head = nn.LayerNorm(width), readout(width, VOCAB, bias=False)
        if tied:
            self.head.weight = self.wte.weight

    def forward(self, ids):
        x = self.wte(ids) + self.wpe(torch.arange(ids.shape[1]))
        for block in self.blocks:
            x = block(x)
        return self.head(self.ln_f(x))


class Conv1D(nn.Module):
    """A linear layer with its weight stored (in, out)."""

    def __init__(self, n_out, n_in):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(n_in, n_out).normal_(std=0.02))
        self.bias = nn.Parameter(torch.zeros(n_out))

    def forward(self, x):
        return x @ self.weight + self.bias


class Config:
    def __init__(self, n_embd, n_head, n_layer=1, vocab_size=VOCAB, n_positions=CONTEXT):
        self.n_embd, self.n_head, self.n_layer = n_embd, n_head, n_layer
        self.vocab_size, self.n_positions = vocab_size, n_positions


class Layer(nn.Module):
    def __init__(self, config):
        super().__init__()
        d, self.n_head = config.n_embd, config.n_head
        self.ln_1, self.ln_2 = nn.LayerNorm(d), nn.LayerNorm(d)
        self.attn = nn.ModuleDict({"c_attn": Conv1D(3 * d, d), "c_proj": Conv1D(d, d)})
        self.mlp = nn.ModuleDict({"c_fc": Conv1D(4 * d, d), "c_proj": Conv1D(d, 4 * d)})

    def forward(self, x):
        q, k, v = (
            part.unflatten(-1, (self.n_head, -1)).transpose(1, 2)
            for part in self.attn["c_attn"](self.ln_1(x)).chunk(3, -1)
        )
        a = F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).flatten(-2)
        x = x + self.attn["c_proj"](a)
        return x + self.mlp["c_proj"](F.gelu(self.mlp["c_fc"](self.ln_2(x))))


class LMHeadModel(nn.Module):
    """In the style of Hugging Face: a config, nested modules, transposed linear layers, a tied head, a dict out."""

    def __init__(self, config):
        super().__init__()
        self.transformer = nn.ModuleDict(
            {
                "wte": nn.Embedding(config.vocab_size, config.n_embd),
                "wpe": nn.Embedding(config.n_positions, config.n_embd),
                "h": nn.ModuleList(Layer(config) for _ in range(config.n_layer)),
                "ln_f": nn.LayerNorm(config.n_embd),
            }
        )
        self.lm_head = nn.Linear(config.n_embd, config.vocab_size, bias=False)
        self.lm_head.weight = self.transformer["wte"].weight

    def forward(self, input_ids, labels):
        x = self.transformer["wte"](input_ids) + self.transformer["wpe"](torch.arange(input_ids.shape[1]))
        for layer in self.transformer["h"]:
            x = layer(x)
        logits = self.lm_head(self.transformer["ln_f"](x))
        return {"loss": F.cross_entropy(logits.flatten(0, 1), labels.flatten()), "logits": logits}


def vision_transformer(width, heads=None):
    from torchvision.models import VisionTransformer

    return VisionTransformer(
        image_size=8, patch_size=4, num_layers=1, num_heads=heads or width // 8, hidden_dim=width, mlp_dim=2 * width,
        num_classes=5,
    )  # fmt: skip


VIT_ROLES = {"class_token": "input", "encoder.pos_embedding": "input"}


def cross_entropy(model, x, y):
    return F.cross_entropy(model(x).flatten(0, -2), y.flatten())


def words(count=1, rows=8, seed=0):
    """Batches of (rows, CONTEXT) tokens, each to be predicted from those before it, of a random Markov chain."""
    g = torch.Generator().manual_seed(seed)
    table = torch.softmax(2 * torch.randn(VOCAB, VOCAB, generator=g), -1)
    found = []
    for _ in range(count):
        s = torch.randint(VOCAB, (rows, 1), generator=g)
        for _ in range(CONTEXT):
            s = torch.cat([s, torch.multinomial(table[s[:, -1]], 1, generator=g)], 1)
        found.append((s[:, :-1], s[:, 1:]))
    return found


def samples(shape, count=1, rows=16, seed=0, dtype=torch.float32):
    """Batches of inputs of a shape, each of one of 5 classes: a prototype and noise."""
    g = torch.Generator().manual_seed(seed)
    prototypes, found = torch.randn(5, *shape, generator=g, dtype=torch.float64), []
    for _ in range(count):
        y = torch.randint(5, (rows,), generator=g)
        noise = torch.randn(rows, *shape, generator=g, dtype=torch.float64)
        found.append(((prototypes[y] + 0.5 * noise).to(dtype), y))
    return found
