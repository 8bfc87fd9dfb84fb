"""A pretended GPU, so that code for "cuda" is run, and what CUDA would refuse is refused, on a machine that has none.

    with pretend_cuda.device() as gpu:
        train(..., device="cuda")
    gpu.launches, gpu.waits, gpu.peak

A tensor of the device keeps its numbers on the CPU, says that it is on cuda:0, and goes through one function, `_run`,
for every operation. What a real device refuses is refused with torch's own words: operands on two devices, a random
generator of the other device, ``.numpy()``, pinning, waiting while a CUDA graph is captured. Counted are kernels
(`launches`), places where the host has to wait for the device or copies memory that is not pinned (`waits`, each with
the line of tp4lib that caused it), and the bytes that are alive (`live`, `peak`). A CUDA graph does its operations
again, in the memory that it was captured with. Not pretended: speed, rounding (the numbers are the CPU's), Triton.
"""

import contextlib
import traceback
import types
import weakref
from collections import Counter
from unittest import mock

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_any, tree_leaves, tree_map

CUDA, HOST = torch.device("cuda:0"), torch.device("cpu")
MEMORY = 80 << 30  # bytes that the device says it has

# Operations whose result the host has to know: a number, or a size that depends on the numbers.
_HOST_NEEDS = {
    "_local_scalar_dense", "is_nonzero", "equal", "nonzero", "masked_select", "bincount", "unique_dim", "_unique",
    "_unique2", "unique_consecutive", "repeat_interleave",
}  # fmt: skip
_INDEXED = {"index", "index_put", "index_put_", "_index_put_impl_", "_unsafe_index", "_unsafe_index_put"}
_NO_KERNEL = {  # beside views
    "empty", "empty_like", "new_empty", "empty_strided", "new_empty_strided", "empty_permuted", "lift_fresh", "alias",
    "_unsafe_view", "_local_scalar_dense", "detach", "set_", "resize_", "_reshape_alias",
}  # fmt: skip
_DRAWN = ("rand", "randn", "randint", "randperm", "normal", "multinomial", "bernoulli")
_DRAWN_IN_PLACE = (
    "normal_", "uniform_", "exponential_", "random_", "bernoulli_", "cauchy_", "geometric_", "log_normal_",
    "multinomial",
)  # fmt: skip

_tensor, _as_tensor, _Generator, _to = torch.tensor, torch.as_tensor, torch.Generator, torch.Tensor.to


class Gpu:
    """What has happened on the device since it was made, or since `reset`."""

    def __init__(self) -> None:
        self.launches: Counter[str] = Counter()
        self.waits: Counter[str] = Counter()
        self.live = self.peak = 0
        self.recording: list | None = None  # operations, while a graph is captured
        self._storages: dict[int, list[int]] = {}  # address: tensors that share it, bytes

    def reset(self) -> None:
        self.launches.clear()
        self.waits.clear()
        self.peak = self.live

    def wait(self, why: str) -> None:
        if self.recording is not None:
            raise RuntimeError(
                f"CUDA error: operation not permitted when stream is capturing ({why}, at {_line()})"
            )
        self.waits[f"{why} at {_line()}"] += 1

    def hold(self, tensor: "CudaTensor") -> None:
        """Count the memory behind a tensor once, until the last tensor that shares it is gone."""
        storage = tensor.on_host.untyped_storage()
        if address := storage.data_ptr():
            entry = self._storages.setdefault(address, [0, storage.nbytes()])
            if entry[0] == 0:
                self.live += entry[1]
                self.peak = max(self.peak, self.live)
            entry[0] += 1
            weakref.finalize(tensor, self._release, address)

    def _release(self, address: int) -> None:
        entry = self._storages[address]
        entry[0] -= 1
        if entry[0] == 0:
            self.live -= entry[1]
            del self._storages[address]


_gpu = Gpu()


class CudaTensor(torch.Tensor):
    """A tensor that says it is on cuda:0. For torch's own C++ it has no memory (device "meta"); `on_host` has it."""

    @staticmethod
    def __new__(cls, on_host: torch.Tensor) -> "CudaTensor":
        made = torch.Tensor._make_wrapper_subclass(
            cls, on_host.size(), strides=on_host.stride(), storage_offset=on_host.storage_offset(),
            dtype=on_host.dtype, layout=on_host.layout, device="meta",
        )  # fmt: skip
        made.on_host = on_host
        _gpu.hold(made)
        return made

    device = property(lambda self: CUDA)
    is_cuda = property(lambda self: True)
    is_cpu = is_meta = property(lambda self: False)
    data = property(lambda self: self.detach())

    def get_device(self):
        return 0

    def data_ptr(self):
        return self.on_host.data_ptr()

    def numpy(self, *args, **options):
        raise TypeError(
            "can't convert cuda:0 device type tensor to numpy. "
            "Use Tensor.cpu() to copy the tensor to host memory first."
        )

    __array__ = numpy

    def pin_memory(self, *args):
        raise RuntimeError("cannot pin 'torch.cuda.FloatTensor' only dense CPU tensors can be pinned")

    def tolist(self):
        _gpu.wait("tolist")
        return self.on_host.tolist()

    def new_tensor(self, data, *, dtype=None, device=None, requires_grad=False):
        return _make(data, dtype=dtype or self.dtype, device=device or CUDA, requires_grad=requires_grad)

    def __repr__(self, *args, **options):
        return f"{self.on_host!r} on cuda:0"

    def __format__(self, how):
        return self.on_host.detach().__format__(how) if self.dim() == 0 else repr(self)

    def __deepcopy__(self, memo):
        made = CudaTensor(self.on_host.detach().clone())
        if isinstance(self, torch.nn.Parameter):
            made = torch.nn.Parameter(made, self.requires_grad)
        else:
            made.requires_grad_(self.requires_grad)
        memo[id(self)] = made
        return made

    @classmethod
    def __torch_dispatch__(cls, operation, types, args=(), options=None):
        return _run(operation, args, options or {})


class _Everything(TorchDispatchMode):
    """Sends operations on ordinary tensors here, too: those that make a tensor of the device have none among theirs."""

    def __torch_dispatch__(self, operation, types, args=(), options=None):
        return _run(operation, args, options or {})


class _DeviceGenerator(_Generator):
    """A generator that knows for which device it was made; its numbers are the CPU's."""

    def __new__(cls, device="cpu"):
        made = _Generator.__new__(cls, "cpu")
        made.kind = torch.device(device).type
        return made

    def __init__(self, device="cpu"):
        pass

    @property
    def device(self):
        return CUDA if self.kind == "cuda" else HOST


def _run(operation, args, options):
    """Do one of torch's operations: refuse what a device refuses, count, compute on the CPU, wrap what it returns."""
    name = operation._schema.name.split("::")[1]
    tensors = [leaf for leaf in tree_leaves((args, options)) if isinstance(leaf, torch.Tensor)]
    ours = [tensor for tensor in tensors if isinstance(tensor, CudaTensor)]
    on_gpu = _is_cuda(options["device"]) if options.get("device") is not None else bool(ours)
    if not ours and not on_gpu:
        return operation(*args, **options)
    if ours and len(ours) < len(tensors) and name not in ("copy_", "_to_copy", "set_"):
        _refuse_two_devices(operation, name, args, tensors)
    _count(operation, name, args, options, ours, on_gpu)
    if _is_cuda(options.get("device")):
        options = options | {"device": HOST}
    options = {key: value for key, value in options.items() if key != "pin_memory"}
    if name == "_efficientzerotensor":  # autograd's zeros without memory have no numbers to share
        operation = torch.ops.aten.zeros.default
    args, options = tree_map(_unwrapped, (args, options))
    result = operation(*args, **options)
    if name == "_to_copy" and on_gpu and result.data_ptr() == tensors[0].data_ptr():
        result = result.clone()  # from one device to the other there is always a copy
    if _gpu.recording is not None and not operation.is_view and name not in _NO_KERNEL:
        _gpu.recording.append((operation, args, options, result))
    if _writes(operation):  # in place: the tensor that was given, not another one around the same memory
        given = {id(_unwrapped(tensor)): tensor for tensor in tensors}
        return tree_map(lambda found: given.get(id(found), _wrapped(found) if on_gpu else found), result)
    return tree_map(_wrapped, result) if on_gpu else result


class _Stream:
    def wait_stream(self, other):
        pass


class _Graph:
    """torch.cuda.CUDAGraph: the operations of a capture, done again with the same memory."""

    def __init__(self):
        self.operations = []

    def replay(self):
        _gpu.launches["a graph"] += 1
        for operation, args, options, before in self.operations:
            found = operation(*args, **options)
            for old, new in zip(tree_leaves(before), tree_leaves(found)):
                if isinstance(old, torch.Tensor) and old.data_ptr() != new.data_ptr():
                    old.copy_(new.reshape(old.shape))  # it may have been squeezed in place since


@contextlib.contextmanager
def _capture(graph):
    _gpu.recording = graph.operations
    try:
        yield
    finally:
        _gpu.recording = None


def _refuse_two_devices(operation, name, args, tensors):
    if name in _INDEXED:
        if not isinstance(args[0], CudaTensor):
            raise RuntimeError(
                f"indices should be either on cpu or on the same device as the indexed tensor (cpu), at {_line()}"
            )
        values = args[2] if len(args) > 2 else None
        if not isinstance(values, torch.Tensor) or isinstance(values, CudaTensor) or values.dim() == 0:
            _gpu.wait("an index on the CPU")
            return
    pointwise = torch.Tag.pointwise in operation.tags or name.startswith("_foreach")
    if not pointwise or any(tensor.dim() for tensor in tensors if not isinstance(tensor, CudaTensor)):
        raise RuntimeError(
            "Expected all tensors to be on the same device, but found at least two devices, cuda:0 and cpu! "
            f"({name}, at {_line()})"
        )


def _count(operation, name, args, options, ours, on_gpu):
    if name in _HOST_NEEDS and ours:
        _gpu.wait(name)
    if name in ("_to_copy", "copy_"):
        source = args[0] if name == "_to_copy" else args[1]
        target = on_gpu if name == "_to_copy" else isinstance(args[0], CudaTensor)
        without = options.get("non_blocking", False) or (name == "copy_" and len(args) > 2 and args[2])
        if isinstance(source, CudaTensor) != target and not without:
            _gpu.wait("a copy to the device" if target else "a copy to the host")
    if name in _INDEXED and any(
        isinstance(index, CudaTensor) and index.dtype in (torch.bool, torch.uint8) for index in args[1]
    ):
        _gpu.wait("a mask as an index")
    if not operation.is_view and name not in _NO_KERNEL:
        _gpu.launches[name] += 1


def _writes(operation) -> bool:
    return not operation.is_view and any(
        argument.alias_info is not None and argument.alias_info.is_write
        for argument in operation._schema.arguments
    )


def _wrapped(x):
    if not isinstance(x, torch.Tensor) or isinstance(x, CudaTensor):
        return x
    return CudaTensor(torch.zeros(x.shape, dtype=x.dtype) if x._is_zerotensor() else x)


def _unwrapped(x):
    return x.on_host if isinstance(x, CudaTensor) else x


def _is_cuda(device) -> bool:
    return device is not None and torch.device(device).type in ("cuda", "meta")


def _line() -> str:
    """The innermost line of the library, or of a notebook, that is being run."""
    for frame in reversed(traceback.extract_stack()):
        if "/tp4lib/" in frame.filename or frame.filename.startswith("<cell"):
            return f"{frame.filename.split('/tp4lib/')[-1]}:{frame.lineno}"
    return "a test"


# ---- torch's functions that decide about devices before any operation is dispatched


def _make(data, *, dtype=None, device=None, requires_grad=False, pin_memory=False):
    """torch.tensor"""
    if tree_any(lambda x: isinstance(x, CudaTensor), data):
        on_gpu = isinstance(data, CudaTensor) if device is None else _is_cuda(device)
        _gpu.wait("torch.tensor of tensors")
        data = tree_map(lambda x: x.on_host.detach() if isinstance(x, CudaTensor) else x, data)
        made = data.clone() if isinstance(data, torch.Tensor) else _tensor(data)
        made = made.to(dtype) if dtype else made
    else:
        on_gpu, made = _is_cuda(device), _tensor(data, dtype=dtype)
        if on_gpu:
            _gpu.wait("torch.tensor")
    made = CudaTensor(made) if on_gpu else made
    return made.requires_grad_() if requires_grad else made


def _made(data, dtype=None, device=None):
    """torch.as_tensor"""
    if isinstance(data, torch.Tensor):
        return data.to(device=device or data.device, dtype=dtype or data.dtype)
    if _is_cuda(device) or tree_any(lambda x: isinstance(x, CudaTensor), data):
        return _make(data, dtype=dtype, device=device)
    return _as_tensor(data, dtype=dtype)


def _moved(self, *args, **options):
    """Tensor.to: "cuda" is "meta" for torch's own code, which would look for a real device."""

    def named(x):
        if isinstance(x, (str, torch.device)) and torch.device(x).type == "cuda":
            return torch.device("meta")
        return x

    args, options = [named(x) for x in args], {key: named(x) for key, x in options.items()}
    if args and isinstance(args[0], torch.Tensor):  # to what another tensor has
        other = args[0]
        where = torch.device("meta") if isinstance(other, CudaTensor) else other.device
        args = [where, other.dtype, *args[1:]]
    return _to(self, *args, **options)


def _same_generator(function, in_place: bool):
    """A random function that refuses a generator of the other device."""

    def checked(*args, **options):
        found = [x for x in (*args, *options.values()) if isinstance(x, _Generator)]
        on_gpu = isinstance(args[0], CudaTensor) if in_place else (
            _is_cuda(options.get("device")) or any(isinstance(x, CudaTensor) for x in args)
        )  # fmt: skip
        expected = "cuda" if on_gpu else "cpu"
        if found and getattr(found[0], "kind", "cpu") != expected:
            raise RuntimeError(
                f"Expected a '{expected}' device type for generator but found '{found[0].device.type}'"
            )
        return function(*args, **options)

    return checked


@contextlib.contextmanager
def device(processors: int = 4, memory: int = MEMORY):
    """A machine with one GPU of ``memory`` bytes; afterwards it is gone again. Yields the `Gpu` with the counts."""
    global _gpu
    before, _gpu = _gpu, Gpu()
    gpu = _gpu
    about = types.SimpleNamespace(
        multi_processor_count=processors, name="a pretended GPU", total_memory=memory, major=9, minor=0
    )
    cuda = dict(
        _lazy_init=lambda: None, is_available=lambda: True, is_initialized=lambda: True, device_count=lambda: 1,
        current_device=lambda: 0, set_device=lambda device: None, synchronize=lambda device=None: None,
        mem_get_info=lambda device=None: (memory - gpu.live, memory), empty_cache=lambda: None,
        get_device_properties=lambda device=None: about, get_device_name=lambda device=None: about.name,
        get_device_capability=lambda device=None: (9, 0), max_memory_allocated=lambda device=None: gpu.peak,
        reset_peak_memory_stats=lambda device=None: gpu.reset(),
        device=lambda device: contextlib.nullcontext(), stream=lambda stream: contextlib.nullcontext(),
        Stream=_Stream, current_stream=_Stream, CUDAGraph=_Graph, graph=_capture,
        get_rng_state=lambda device=None: torch.get_rng_state(), set_rng_state=lambda state, device=None: None,
    )  # fmt: skip
    with contextlib.ExitStack() as undo:
        for name, function in cuda.items():
            undo.enter_context(mock.patch.object(torch.cuda, name, function))
        for name, function in dict(tensor=_make, as_tensor=_made, Generator=_DeviceGenerator).items():
            undo.enter_context(mock.patch.object(torch, name, function))
        for name, function in dict(to=_moved, cuda=lambda self, *args, **options: self.to("cuda")).items():
            undo.enter_context(mock.patch.object(torch.Tensor, name, function))
        for owner, names in ((torch, _DRAWN), (torch.Tensor, _DRAWN_IN_PLACE)):
            for name in names:
                drawn = _same_generator(getattr(owner, name), owner is torch.Tensor)
                undo.enter_context(mock.patch.object(owner, name, drawn))
        health = "_accelerator_graph_capture_health_check"  # of optimizers, asks the real device
        if hasattr(torch.optim.Optimizer, health):
            undo.enter_context(mock.patch.object(torch.optim.Optimizer, health))
        undo.enter_context(_Everything())
        try:
            yield gpu
        finally:
            _gpu = before
