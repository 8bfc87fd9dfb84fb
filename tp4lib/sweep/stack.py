r"""M networks trained as one: every weight a stack (M, out, in), every product one batched matrix product.

    y_m = W_m x_m,   dL/dx_m = W_m^T dL/dy_m,   W_m <- W_m - eta_m dL/dy_m x_m^T        m = 1 .. M at once

Small networks are limited by memory traffic, not by arithmetic. So SGD's step is made inside the backward pass: the
product that would be the gradient is added to the weights at once, and gradients are never stored.
"""

import copy

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim.adam import adam

from tp4lib.nn import ABCLinear, rates

# Its defaults.
_ADAM = dict(beta1=0.9, beta2=0.999, eps=1e-8, weight_decay=0.0, amsgrad=False, maximize=False)


class Stack(nn.Module):
    """M copies of a network of `ABCLinear` layers, each with its own initialization and learning rate.

    Member m does what `torch.optim.SGD` or `Adam` with `param_groups(model, lr[m], optimizer)` would do to its copy.

    Args:
        models: networks alike but for their initial weights. Between its layers a network has to treat
            leading dimensions as a batch.
        pick: (M,) which of `models` each member starts from. lr: (M,) learning rates eta. (`sweep` checks all of them.)

    Shapes: x (B, d_in), the same for all members -> f (M, B, d_out).

    >>> from tp4lib.nn import MLP
    >>> from tp4lib.parametrization import mup
    >>> stack = Stack([MLP(3, 16, 1, mup(1), seed=0)], [0, 0], [0.1, 0.2])
    >>> stack.step(stack(torch.ones(5, 3)).square().sum((1, 2)))  # and both are trained, each at its rate
    >>> stack(torch.ones(5, 3)).shape
    torch.Size([2, 5, 1])
    """

    def __init__(
        self, models: list[nn.Module], pick: list[int], lr: list[float], optimizer: str = "sgd"
    ) -> None:
        super().__init__()
        scales = rates(models[0], optimizer)
        starts = [dict(model.named_parameters()) for model in models]
        # The first network's own forward code serves all: each ABCLinear in it is replaced by the stack of M of them.
        self.network, self.layers, self.count = copy.deepcopy(models[0]), [], 0
        for name, module in list(self.network.named_modules()):
            if isinstance(module, ABCLinear):
                weights = {
                    part: torch.stack([starts[i][f"{name}.{part}".lstrip(".")].detach() for i in pick])
                    for part in ("weight", "bias")
                    if getattr(module, part) is not None
                }
                eta = {part: np.multiply(lr, scales[f"{name}.{part}".lstrip(".")]) for part in weights}
                self.layers.append(_Layers(module, weights, eta, optimizer == "adam"))
                if name:  # "": the network is itself one layer
                    self.network.set_submodule(name, self.layers[-1])
                else:
                    self.network = self.layers[-1]

    def forward(self, x: Tensor) -> Tensor:
        return self.network(x)

    def step(self, losses: Tensor) -> None:
        """One update of every member from its own loss, (M,); `losses` come from one call of the stack."""
        losses.sum().backward()
        self.count += 1
        for layer in self.layers:
            layer.step(self.count)

    def weights(self) -> list[Tensor]:
        """The stacks (M, out, in) of all layers."""
        return [layer.weights["weight"] for layer in self.layers]

    def keep(self, members: np.ndarray) -> None:
        """Go on with these members alone: (M,) booleans."""
        for layer in self.layers:
            layer.keep(torch.from_numpy(np.flatnonzero(members)))


class _Layers(nn.Module):
    """One `ABCLinear` of every member.

    For Adam the stacks hold w / eta. Adam's step does not depend on the weight or its rate, so that w / eta moves by
    the step at rate 1 in every member, and torch's own fused Adam, which knows one rate per tensor, serves the stack.
    """

    def __init__(
        self, layer: ABCLinear, weights: dict[str, Tensor], eta: dict[str, np.ndarray], adam: bool
    ) -> None:
        super().__init__()
        self.multiplier, self.bias_multiplier, self.adam = layer.multiplier, layer.bias_multiplier, adam
        self.weights, self.eta, self.averages = {}, {}, {}
        for name, w in weights.items():
            # A step is made in the weights' own precision, as torch.optim makes it.
            self.eta[name] = torch.tensor(eta[name], dtype=w.dtype, device=w.device)[:, None, None]
            w = w.view(len(w), -1, w.shape[-1])  # a bias: (M, 1, out)
            self.weights[name] = (w / self.eta[name] if adam else w).requires_grad_()
            self.averages[name] = [torch.zeros_like(w) for _ in range(2 if adam else 0)]

    def forward(self, x: Tensor) -> Tensor:
        y = _Product.apply(x, self.weights["weight"], self.multiplier, self.eta["weight"], self.adam)
        if "bias" in self.weights:
            beta = self.weights["bias"]
            y = y + self.bias_multiplier * (_Scaled.apply(beta, self.eta["bias"]) if self.adam else beta)
        return y

    @torch.no_grad()
    def step(self, count: int) -> None:
        for name, w in self.weights.items():
            if self.adam:
                stacks = ([stack] for stack in (w, w.grad, *self.averages[name]))
                before = torch.full((), count - 1.0, device=w.device)  # filled there: no wait for a copy
                adam(*stacks, [], [before], fused=True, lr=1.0, **_ADAM)
            elif w.grad is not None:  # a bias; weights have moved already
                w.addcmul_(w.grad, self.eta[name], value=-1)
            w.grad = None

    def keep(self, members: Tensor) -> None:
        for name, w in self.weights.items():
            at = members.to(w.device)
            self.weights[name] = w.detach()[at].requires_grad_()  # a leaf again
            self.eta[name] = self.eta[name][at]
            self.averages[name] = [average[at] for average in self.averages[name]]


class _Product(torch.autograd.Function):
    """y = alpha x w^T, or alpha eta x w^T where w is held as w / eta; SGD's step of w happens on the way back."""

    @staticmethod
    def forward(ctx, x: Tensor, w: Tensor, alpha: float, eta: Tensor, adam: bool) -> Tensor:
        ctx.save_for_backward(x, w, eta)
        ctx.alpha, ctx.adam = alpha, adam
        if x.dim() == 2:  # the same for all members
            x = x.expand(len(w), *x.shape)
        y = torch.bmm(x, w.transpose(1, 2))
        if adam:
            return y.mul_(alpha * eta)
        return y if alpha == 1 else y.mul_(alpha)

    @staticmethod
    def backward(ctx, dy: Tensor):
        x, w, eta = ctx.saved_tensors
        dy = dy if ctx.alpha == 1 else ctx.alpha * dy
        dx = None
        if ctx.needs_input_grad[0]:
            dx = torch.bmm(dy, w)
            dx = dx.mul_(eta) if ctx.adam else dx
        if x.dim() == 2:
            x = x.expand(len(w), *x.shape)
        if ctx.adam:
            return dx, torch.bmm(dy.transpose(1, 2), x), None, None, None
        # W <- W - eta dy^T x, in one pass over W. After dx, which needs the weights of before.
        w.baddbmm_((-eta * dy).transpose(1, 2), x)
        return dx, None, None, None, None


class _Scaled(torch.autograd.Function):
    """eta w, whose gradient is passed on as if w were multiplied by 1: Adam is to see dL/d(eta w)."""

    @staticmethod
    def forward(ctx, w: Tensor, eta: Tensor) -> Tensor:
        return w * eta

    @staticmethod
    def backward(ctx, gradient: Tensor):
        return gradient, None
