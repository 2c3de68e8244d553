# SPDX-License-Identifier: Apache-2.0

"""Muon: convolutions step along the orthogonalised momentum of their gradient, all other weights as in Adam.

Every direction of a kernel, seen as a matrix of output by input, then learns equally fast, while in Adam a few strong
ones hold back the many weak ones. PyTorch's Muon takes no convolutions, timm's computes in bfloat16, which some
processors emulate; this one computes in float32 and spares most of the work by staying with the small Gram matrix. In
bfloat16 that would not hold: steps along gradients of low rank would grow a millionfold.

Paper:
    Jordan et al., Muon: An optimizer for hidden layers in neural networks: https://kellerjordan.github.io/posts/muon/

Example:
    >>> import torch
    >>> layer = torch.nn.Conv2d(3, 8, 4)
    >>> optimizer = Muon(layer.parameters(), lr=0.002)
    >>> layer(torch.rand(1, 3, 8, 8)).sum().backward()
    >>> optimizer.step()
"""

from collections.abc import Callable, Iterable

import torch

from anomalib_daad.components.precision import full_precision

MOMENTUM = 0.95
RATE = 20.0  # learning rate of the orthogonalised steps, as a multiple of Adam's
COEFFICIENTS = (3.4445, -4.7750, 2.0315)  # of the quintic Newton-Schulz iteration
ITERATIONS = 5
GROUP = 128  # outputs of a kernel


class Muon(torch.optim.Adam):
    """Adam, but for weights of four dimensions: those step along an orthogonal matrix.

    Args:
        params (Iterable[torch.Tensor]): Weights.
        lr (float): Learning rate of Adam; that of the orthogonal steps is ``RATE`` times as large.
        transposed (Iterable[torch.Tensor]): Those of them that are kernels of transposed convolutions, of shape
            ``(in, out, height, width)`` and not ``(out, in, height, width)``. Defaults to none.
    """

    def __init__(self, params: Iterable[torch.Tensor], lr: float, transposed: Iterable[torch.Tensor] = ()) -> None:
        super().__init__(params, lr=lr, betas=(0.9, 0.999), fused=True)
        self._transposed = set(transposed)
        self._step_supports_amp_scaling = False  # gradients are unscaled before they are added to the momentum

    @torch.no_grad()
    def step(self, closure: Callable[[], torch.Tensor] | None = None) -> torch.Tensor | None:  # type: ignore[override]
        """Update the weights.

        Args:
            closure (Callable[[], torch.Tensor] | None): Computes the loss and its gradients. Defaults to ``None``.

        Returns:
            torch.Tensor | None: The closure's loss.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        gradients = {}
        for group in self.param_groups:
            for weight in group["params"]:
                if weight.ndim == 4 and weight.grad is not None:
                    gradients[weight], weight.grad = weight.grad, None
                    self._step_along_orthogonal(weight, gradients[weight], group["lr"])
        super().step()
        for weight, gradient in gradients.items():
            weight.grad = gradient
        return loss

    def _step_along_orthogonal(self, weight: torch.Tensor, gradient: torch.Tensor, lr: float) -> None:
        state = self.state[weight]
        if not state:
            state["step"] = torch.zeros(())
            state["momentum"] = torch.zeros_like(weight)
        state["step"] += 1
        state["momentum"].mul_(MOMENTUM).add_(gradient)
        direction = gradient.add(state["momentum"], alpha=MOMENTUM)
        # In the order that channels_last kernels have in memory, (out, height, width, in), or of transposed
        # convolutions (in, height, width, out): no copies, and the order of a matrix's columns changes nothing.
        pixels, is_transposed = direction.permute(0, 2, 3, 1), weight in self._transposed
        matrix = pixels.flatten(0, 2).T if is_transposed else pixels.flatten(1)  # (out, in · height · width)
        rows, columns = matrix.shape
        # Groups of outputs are orthogonalised on their own, which takes a third of the products.
        groups = matrix.unflatten(0, (-1, GROUP)) if rows > GROUP and rows % GROUP == 0 else matrix
        step = orthogonalize(groups).reshape(rows, columns)
        step = (step.T if is_transposed else step).reshape(pixels.shape)
        weight.permute(0, 2, 3, 1).add_(step, alpha=-RATE * lr * max(1.0, rows / columns) ** 0.5)


def orthogonalize(matrix: torch.Tensor) -> torch.Tensor:
    """Set the singular values of a matrix near 1, between 0.7 and 1.2, but for the very small ones.

    Newton-Schulz: X becomes p(X Xᵀ) X five times over. The polynomials p of all five are multiplied first, which takes
    products of the small side alone; all of them are symmetric and commute. All of it in float32, under autocast too.

    Args:
        matrix (torch.Tensor): One matrix or several, shape ``(..., m, n)``.

    Returns:
        torch.Tensor: Same shape.
    """
    if matrix.shape[-2] > matrix.shape[-1]:
        return orthogonalize(matrix.mT).mT
    with full_precision(matrix):
        matrix = matrix.to(torch.promote_types(matrix.dtype, torch.float32))
        norm = torch.linalg.matrix_norm(matrix, keepdim=True).clamp_min(1e-12)
        gram = matrix @ matrix.mT / norm.square()  # (..., m, m)
        product = _polynomial(gram)
        for _ in range(ITERATIONS - 1):
            product = _polynomial(product @ gram @ product) @ product
        return product / norm @ matrix


def _polynomial(gram: torch.Tensor) -> torch.Tensor:
    a, b, c = COEFFICIENTS
    polynomial = b * gram + c * (gram @ gram)
    polynomial.diagonal(dim1=-2, dim2=-1).add_(a)
    return polynomial
