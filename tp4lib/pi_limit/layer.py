r"""An infinitely wide weight matrix, held as a list of rows that training appends to.

    W = (1/n) sum_i (Omega A_i) phi(Omega B_i)^T,     W phi(Omega g)  ->  Omega sum_i A_i K(B_i, g)     as n -> inf

Source: Yang, Santacroce & Hu 2022 (*Efficient Computation of Deep, Nonlinear, Infinite-Width Neural Networks that
Learn Features*), section 3. There a row has a multiplier m_i beside (A_i, B_i); here m_i is multiplied into A_i.
"""

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from tp4lib.activations import Dual, Split
from tp4lib.base import checks
from tp4lib.base.checks import real, whole
from tp4lib.base.device import require_memory, resolve_optional
from tp4lib.base.errors import InputError
from tp4lib.pi_limit.compression import Compression, refit

# Pairs (row, input) whose kernel is held at once: 64 MB in float32 for each elementwise temporary.
BUDGET = 1 << 24
_FIRST = 1024  # rows that are allocated to begin with


class Rows(nn.Module):
    r"""The map ``g -> sum_i A_i K(B_i, g)`` from one infinitely wide layer to the next, or to the output.

    Args:
        kernel: the dual of the activation. rank: r, of B_i and g. d_out: columns of A_i.
        max_rows: with a number, `append` compresses to half of it whenever it would be exceeded.
        storage: of the rows, e.g. ``torch.bfloat16`` for half the memory; psi(B) and A then have 8 significant bits,
            while scale, rho and all sums stay in ``dtype``. None: ``dtype``.

    ``compressions`` holds what each compression so far did. Memory grows by half when it is full, so that n appends
    cost O(n). ``state_dict`` holds the rows in use; ``load_state_dict`` takes any number of them.

    Example:
        >>> from tp4lib.activations import dual
        >>> rows = Rows(dual("identity"), rank=3, d_out=1)
        >>> rows.append(B=torch.eye(3), A=torch.ones(3, 1))
        >>> rows(torch.tensor([[1.0, 2.0, 3.0]])), len(rows)
        (tensor([[6.]]), 3)
    """

    def __init__(
        self,
        kernel: Dual,
        rank: int,
        d_out: int,
        *,
        max_rows: int | None = None,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str | None = None,
        storage: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.kernel, self.rank, self.d_out = kernel, whole("rank", rank), whole("d_out", d_out)
        self.max_rows = None if max_rows is None else whole("max_rows", max_rows, least=3, example=4096)
        dtype, device = checks.floating("dtype", dtype), resolve_optional(device)
        self.storage = checks.floating("storage", storage) or dtype
        self.compressions: list[Compression] = []
        self._count, self._factor = 0, 1.0  # the factor of all rows: weight decay in O(1)
        self._compressed = 0  # how often, over all sessions
        # Of each row A, and what the kernel needs of B, computed once. The buffers have room for more rows than are in
        # use, so they are not part of the state dict as they are.
        for name, columns, kept in (
            ("psi", (rank,), self.storage),
            ("scale", (), dtype),
            ("rho", (kernel.terms,), dtype),
            ("A", (d_out,), self.storage),
        ):
            self.register_buffer(
                f"_{name}", torch.empty(0, *columns, dtype=kept, device=device), persistent=False
            )

    def __len__(self) -> int:
        return self._count

    @property
    def dtype(self) -> torch.dtype:
        return self._rho.dtype

    @property
    def A(self) -> Tensor:
        """``(rows, d_out)``, the multipliers m_i included."""
        return self._A[: len(self)].to(self.dtype) * self._factor

    @property
    def B(self) -> Tensor:
        """``(rows, r)``."""
        return self.split().vectors

    @property
    def nbytes(self) -> int:
        """Bytes that the rows in use take."""
        return sum(b[: len(self)].nbytes for b in (self._psi, self._scale, self._rho, self._A))

    def split(self, start: int = 0, stop: int | None = None) -> Split:
        """Rows start..stop, made ready for the kernel."""
        part = slice(start, len(self) if stop is None else stop)
        return Split(self._psi[part].to(self.dtype), self._scale[part], self._rho[part])

    def norm(self) -> float:
        """The Frobenius norm of W: its square is sum_ij A_i.A_j K(B_i, B_j)."""
        A, step = self.A, max(1, BUDGET // max(1, len(self)))
        total = A.new_zeros((), dtype=torch.float64)
        for start in range(0, len(self), step):
            K = self.kernel.gram(self.split(start, min(start + step, len(self))), self.split())
            total += (A[start : start + step] * (K @ A)).sum()
        return float(total.clamp(min=0).sqrt())

    def forward(self, g: Tensor) -> Tensor:
        """``(b, r) -> (b, d_out)``. At most `BUDGET` pairs are held at once, also under autograd."""
        one, step = self.kernel.split(g), max(1, BUDGET // max(1, len(g)))
        if len(self) <= step:
            return self._block(*one, 0, len(self)) * self._factor
        total, grad = 0, torch.is_grad_enabled() and g.requires_grad
        for start in range(0, len(self), step):
            stop = min(start + step, len(self))
            if grad:  # only the sums are kept; pairs are worked out again on the way back
                total = total + checkpoint(self._block, *one, start, stop, use_reentrant=False)
            else:
                total = total + self._block(*one, start, stop)
        return total * self._factor

    def _block(self, psi: Tensor, scale: Tensor, rho: Tensor, start: int, stop: int) -> Tensor:
        K = self.kernel.gram(Split(psi, scale, rho), self.split(start, stop))
        return K @ self._A[start:stop].to(self.dtype)

    @torch.no_grad()
    def append(self, B: Tensor, A: Tensor) -> None:
        """Add rows: ``B`` (m, r) and ``A`` (m, d_out), the multiplier (minus the rate) included in A."""
        if B.shape != (len(A), self.rank) or A.shape[1:] != (self.d_out,):
            raise InputError(
                f"rows of shapes {tuple(B.shape)} and {tuple(A.shape)}; expected (m, {self.rank}) and "
                f"(m, {self.d_out}); give B and A one row a sample"
            )
        if self.max_rows is not None and len(self) + len(A) > self.max_rows:
            if len(A) > self.max_rows // 2:
                raise InputError(
                    f"{len(A)} rows in one step, with max_rows = {self.max_rows}; expected at most half of it; "
                    f"try max_rows={8 * len(A)}"
                )
            self.compress(self.max_rows // 2)
        self._put(self.kernel.split(B), A / self._factor)  # `A` and `forward` multiply all rows by the factor

    @torch.no_grad()
    def compress(self, budget: int) -> Compression:
        """Refit W to at most ``budget`` of its rows, and report; see `tp4lib.pi_limit.compression.refit`."""
        rows = self.split()
        # Another choice of rows each time, and the same ones again after a checkpoint.
        stay, A, report = refit(self.kernel, rows, self.A, budget, seed=self._compressed)
        if report.after < report.before:
            self._count, self._factor = 0, 1.0  # A has the factor in it
            self._put(Split(*(part[stay] for part in rows)), A.to(self.dtype))
        self._compressed += 1
        self.compressions.append(report)
        return report

    @torch.no_grad()
    def decay(self, factor: float) -> None:
        """Multiply W by a factor (weight decay): one number, however many rows there are."""
        self._factor *= real("factor", factor)
        if not 1e-6 < abs(self._factor) < 1e6:  # long before stored numbers could overflow
            self._A *= self._factor
            self._factor = 1.0

    def _put(self, split: Split, A: Tensor) -> None:
        start, stop = self._count, self._count + len(A)
        if stop > len(self._A):
            self._reserve(stop)
        for buffer, part in zip((self._psi, self._scale, self._rho, self._A), (*split, A)):
            buffer[start:stop] = part
        self._count = stop

    def _reserve(self, least: int) -> None:
        rows = max(_FIRST, least, len(self._A) * 3 // 2)
        if self.max_rows is not None:
            rows = max(least, min(rows, self.max_rows))
        each = (self.rank + self.d_out) * self._A.itemsize + (1 + self.kernel.terms) * self._rho.itemsize
        require_memory(
            rows * each, self._A.device, f"a layer of {rows:,} rows", "give max_rows to compress them"
        )
        for name in ("psi", "scale", "rho", "A"):
            old = getattr(self, f"_{name}")
            new = old.new_empty(rows, *old.shape[1:])
            new[: len(self)] = old[: len(self)]
            setattr(self, f"_{name}", new)

    def _save_to_state_dict(self, destination, prefix: str, keep_vars: bool) -> None:
        for name in ("psi", "scale", "rho", "A"):
            destination[f"{prefix}{name}"] = getattr(self, f"_{name}")[: len(self)].clone()
        destination[f"{prefix}factor"] = torch.tensor([self._factor, self._compressed], dtype=torch.float64)

    def _load_from_state_dict(
        self, state, prefix: str, metadata, strict: bool, missing: list, unexpected: list, errors: list
    ) -> None:
        names = ["psi", "scale", "rho", "A", "factor"]
        missing += [prefix + name for name in names if prefix + name not in state]
        if not missing:
            psi, scale, rho, A, factor = (torch.as_tensor(state[prefix + name]) for name in names)
            self._count, self._factor, self._compressed = 0, float(factor[0]), int(factor[1])
            with torch.no_grad():
                self._put(Split(psi.to(self._psi), scale.to(self._scale), rho.to(self._rho)), A.to(self._A))

    def extra_repr(self) -> str:
        return f"{self.kernel.name}, rank={self.rank}, d_out={self.d_out}, rows={len(self)}"
