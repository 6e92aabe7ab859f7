"""A pretended GPU: real arithmetic on the CPU, and the rules of CUDA about what may meet what.

A tensor's storage carries a tag, "cuda" or none. `Tensor.device` tells it, `.to("cuda")` copies and tags, results are
where their inputs were, and an operation on tensors of both places raises as CUDA would. `torch.cuda` tells of a T4.
Numbers are the CPU's in the same formats, so that float16 overflows and rounds as it does; time, memory and the order
of sums are not a GPU's. For TRL's Triton kernels its own code in PyTorch stands in.

Not seen: kernels that a GPU lacks, streams, a second GPU, where a random generator is (both places draw from one), and
which operations CUDA's autocast brings to 16 bits.
"""

import contextlib
import functools
import types
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from typing import Any
from unittest import mock

import torch
import torch._dynamo  # looks through torch when it is first imported, and is to find what is there
from torch.utils._device import _device_constructors
from torch.utils._python_dispatch import TorchDispatchMode
from trl.kernels import chunked_logprob
from trl.trainer import utils as trl_utils

CPU, CUDA = torch.device("cpu"), torch.device("cuda", 0)
GB = 10**9

# Where tensors of both places may meet: copies between them, and indices, which CUDA takes from the CPU, too.
COPIES = {"aten::copy_", "aten::_to_copy", "aten::_foreach_copy_"}
INDEXED = {"aten::index", "aten::index_put", "aten::index_put_", "aten::_index_put_impl_", "aten::_unsafe_index"}
# Beside all pointwise operations, these take a single number (a tensor without dimensions) from the CPU.
TAKE_NUMBERS = {"aten::fill_", "aten::masked_fill", "aten::masked_fill_", "aten::index_put", "aten::index_put_"}

REAL = torch._C.TensorBase  # the methods of torch.Tensor as PyTorch has them
REAL_GROUPS = torch._C._group_tensors_by_device_and_dtype
real_device = REAL.device.__get__


def place_of(tensor: torch.Tensor) -> torch.device:
    """As it is tagged, except on a device that no GPU's memory is behind (meta)."""
    real = real_device(tensor)
    return getattr(tensor.untyped_storage(), "place", CPU) if real.type == "cpu" else real


def put(tensor: torch.Tensor, place: torch.device) -> torch.Tensor:
    """The tensor, tagged. The tag is on the storage, which views share and which lives as long as its memory."""
    tensor.untyped_storage().place = place
    return tensor


def as_place(device: Any) -> torch.device:
    """CUDA or another device, from what PyTorch accepts for one: 0, "cuda", "cuda:0", torch.device("cuda")."""
    device = torch.device("cuda", device) if isinstance(device, int) else torch.device(device)
    if device.type == "cuda" and device.index not in (None, 0):
        raise RuntimeError(f"CUDA error: invalid device ordinal: {device}, and this machine has one GPU")
    return CUDA if device.type == "cuda" else device


class Move(torch.autograd.Function):
    """A copy elsewhere, whose gradient comes back."""

    @staticmethod
    def forward(ctx: Any, tensor: torch.Tensor, place: torch.device) -> torch.Tensor:
        ctx.place = place_of(tensor)
        return put(tensor.clone(), place)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None]:
        return put(gradient.clone(), ctx.place), None


def tensors_in(values: Iterable[Any]) -> Iterator[torch.Tensor]:
    for value in values:
        if isinstance(value, torch.Tensor):
            yield value
        elif type(value) in (list, tuple):
            yield from tensors_in(value)


def common_place(operation: Any, args: tuple, kwargs: dict) -> torch.device:
    """Where an operation runs; a RuntimeError in PyTorch's words if its tensors are in different places."""
    places = {place_of(t) for t in tensors_in([*args, *kwargs.values()])}
    if len(places) == 1:  # as nearly always, so that it has to be quick
        (place,) = places
        return CUDA if place == CUDA else CPU
    name, arguments = operation._schema.name, operation._schema.arguments
    if name in COPIES:
        return place_of(next(tensors_in(args)))
    anywhere = name in INDEXED and place_of(args[0]) == CUDA  # its indices, the second argument
    met = tensors_in([*args[:1], *args[1 + anywhere :], *kwargs.values()])
    numbers = torch.Tag.pointwise in operation.tags or name in TAKE_NUMBERS or name.startswith("aten::_foreach_")
    binding = {place_of(t) for t in met if not (numbers and t.dim() == 0 and place_of(t) == CPU)}
    written = [value for value, a in zip(args, arguments, strict=False) if a.alias_info and a.alias_info.is_write]
    binding |= {place_of(t) for t in tensors_in(written)}
    binding -= {torch.device("meta")}
    if len(binding) > 1:
        devices = " and ".join(sorted(map(str, binding), reverse=True))
        raise RuntimeError(f"Expected all tensors to be on the same device, but found {devices}! (in {name})")
    return binding.pop() if binding else CUDA if CUDA in places else CPU


PRODUCTS = {"aten::mm", "aten::addmm", "aten::bmm", "aten::baddbmm"}


def product(operation: Any, args: tuple, kwargs: dict) -> torch.Tensor:
    """A product of 16-bit matrices as a GPU computes it: summed in float32, then told in 16 bits or as `out_dtype`."""
    *matrices, dtype = args if isinstance(args[-1], torch.dtype) else (*args, args[0].dtype)
    out = kwargs.pop("out", None)
    result = operation.overloadpacket(*(matrix.float() for matrix in matrices), **kwargs).type(dtype)
    return result if out is None else out.copy_(result)


class Places(TorchDispatchMode):
    """Checks and tags each operation, those of the backward pass as well. `launches` counts what ran on the GPU."""

    launches = 0

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # nothing is compiled here, and the wrapper against it takes a tenth of the time

    def __torch_dispatch__(self, operation: Any, _: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        kwargs = kwargs or {}
        place = common_place(operation, args, kwargs)
        half = place == CUDA and operation._schema.name in PRODUCTS and args[1].dtype in (torch.float16, torch.bfloat16)
        result = product(operation, args, kwargs) if half else operation(*args, **kwargs)
        if place == CUDA:
            self.launches += not operation.is_view
            for tensor in tensors_in((result,)):
                if real_device(tensor) == CPU:
                    put(tensor, CUDA)
        return result


def moved(tensor: torch.Tensor, place: torch.device) -> torch.Tensor:
    return tensor if place_of(tensor) == place else Move.apply(tensor, place)


def to(tensor: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
    """Tensor.to: PyTorch converts the dtype, the move is ours."""
    if args and isinstance(args[0], torch.Tensor):
        args = (place_of(args[0]), args[0].dtype, *args[1:])
    elif args and isinstance(args[0], torch.dtype):
        args = (None, *args)
    asked = dict(zip(("device", "dtype", "non_blocking", "copy"), args, strict=False)) | kwargs
    asked = {name: value for name, value in asked.items() if value is not None}
    device = asked.pop("device", None)
    tensor = REAL.to(tensor, **asked) if asked else tensor
    if device is None:
        return tensor
    place = as_place(device)
    return REAL.to(tensor, device=place) if "meta" in (place.type, place_of(tensor).type) else moved(tensor, place)


def numpy(tensor: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
    if place_of(tensor) == CUDA:
        raise TypeError("can't convert cuda:0 device type tensor to numpy. Use Tensor.cpu() to copy the tensor first.")
    return REAL.numpy(tensor, *args, **kwargs)


def maker(make: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
    """A function that makes tensors, which now takes "cuda" for a device."""
    name = make.__name__
    takes_after = name.startswith("new_") or name.endswith(("_like", "tensor", "asarray"))  # its first argument

    @functools.wraps(make)
    def wrapper(*args: Any, device: Any = None, **kwargs: Any) -> torch.Tensor:
        if device is not None:
            place = as_place(device)
            kwargs["device"] = CPU if place == CUDA else place
        else:
            place = place_of(args[0]) if takes_after and args and isinstance(args[0], torch.Tensor) else CPU
        kwargs.pop("pin_memory", None)
        tensor = make(*args, **kwargs)
        return moved(tensor, place) if name in ("as_tensor", "asarray") else put(tensor, place)

    return wrapper


MAKERS = {
    torch: [name for name in (f.__name__ for f in _device_constructors()) if hasattr(torch, name)]
    + [f"{kind}_like" for kind in ("empty", "full", "ones", "rand", "randint", "randn", "zeros")],
    torch.Tensor: ["new_empty", "new_full", "new_ones", "new_tensor", "new_zeros"],
}


def group_by_place(lists: list[list], with_indices: bool = False) -> dict:
    """How optimisers group parameters, by device and dtype; PyTorch's own asks the storage."""
    groups = REAL_GROUPS(lists, with_indices)
    return {(place_of(next(tensors_in(found[0]))), dtype): found for (_, dtype), found in groups.items()}


def cuda_answers(name: str, capability: tuple[int, int], total: int) -> dict[str, Any]:
    """What torch.cuda tells. Seeds are set by torch.manual_seed alone, since both places draw from one generator."""

    def answer(value: Any) -> Callable[..., Any]:
        return lambda *args, **kwargs: value

    facts = {"name": name, "major": capability[0], "minor": capability[1], "total_memory": total}
    return {
        **dict.fromkeys(("is_available", "is_initialized", "is_bf16_supported"), answer(True)),
        **dict.fromkeys(("_is_in_bad_fork", "is_current_stream_capturing"), answer(False)),
        **dict.fromkeys(("current_device", "_get_device_index"), answer(0)),
        **{f"{most}memory_{how}": answer(GB // 2) for most in ("", "max_") for how in ("allocated", "reserved")},
        **dict.fromkeys(("init", "_lazy_init", "synchronize", "empty_cache", "set_device"), answer(None)),
        **dict.fromkeys(("reset_peak_memory_stats", "manual_seed", "manual_seed_all"), answer(None)),
        "_initialized": True, "device_count": answer(1), "device": lambda *args: contextlib.nullcontext(),
        "get_device_name": answer(name), "get_device_capability": answer(capability),
        "get_device_properties": answer(types.SimpleNamespace(**facts, multi_processor_count=40)),
        "get_arch_list": answer(["sm_75", "sm_86"]), "mem_get_info": answer((total - GB // 2, total)),
    }  # fmt: skip


RANDOM_STATES = {
    "get_rng_state": lambda *args: torch.get_rng_state(),
    "set_rng_state": lambda state, *args: torch.set_rng_state(state),
}


# `kernel[grid](...)` runs the tile
TRL_KERNELS = {
    "_TRITON_AVAILABLE": True,
    "triton": types.SimpleNamespace(cdiv=lambda a, b: -(-a // b)),
    "_forward_kernel": defaultdict(lambda: chunked_logprob._forward_tile),
    "_backward_kernel": defaultdict(lambda: chunked_logprob._backward_tile),
}


def on_cpu(ask: Callable[..., Any]) -> Callable[..., Any]:
    """Autocast's switches take "cuda", or nothing for it, and turn the CPU's, which does the work here."""
    return lambda device="cuda", *args: ask("cpu" if str(device).startswith("cuda") else device, *args)


def loaded_on_gpu(storage: torch.UntypedStorage, location: str) -> torch.UntypedStorage | None:
    """A storage read from a file, to where it was saved from or map_location says."""
    if not location.startswith("cuda"):
        return None
    storage.place = CUDA
    return storage


@contextlib.contextmanager
def pretended(
    name: str = "Tesla T4", capability: tuple[int, int] = (7, 5), total: int = 15_828_320_256
) -> Iterator[Places]:
    """A machine with this GPU, inside a `with` block. Libraries remember what they find: take a process of its own."""
    answers = cuda_answers(name, capability, total)
    accelerator = {
        "is_available": lambda: True,
        "current_accelerator": lambda *args, **kwargs: torch.device("cuda"),
        "device_count": lambda: 1,
        "current_stream": lambda *args: types.SimpleNamespace(is_capturing=lambda: False, synchronize=lambda: None),
    }
    tensor = {
        "device": property(place_of),
        "is_cuda": property(lambda self: place_of(self) == CUDA),
        "is_cpu": property(lambda self: place_of(self) == CPU),
        "get_device": lambda self: 0 if place_of(self) == CUDA else -1,
        "to": to,
        "cpu": lambda self, *args, **kwargs: to(self, CPU),
        "numpy": numpy,
        "__deepcopy__": lambda self, memo: put(real_deepcopy(self, memo), place_of(self)),
    }
    switches = ("is_autocast_enabled", "get_autocast_dtype", "set_autocast_enabled", "set_autocast_dtype")
    switches = {switch: on_cpu(getattr(torch, switch)) for switch in switches}
    real_deepcopy = torch.Tensor.__deepcopy__
    files = (0, lambda s: "cuda:0" if getattr(s, "place", CPU) == CUDA else None, loaded_on_gpu)
    with contextlib.ExitStack() as stack:

        def change(where: Any, new: dict[str, Any]) -> None:
            for attribute, value in new.items():
                stack.enter_context(mock.patch.object(where, attribute, value, create=True))

        for where, names in MAKERS.items():
            change(where, {attribute: maker(getattr(where, attribute)) for attribute in names})
        change(torch.cuda, answers | RANDOM_STATES)
        change(torch.cuda.random, RANDOM_STATES)
        change(torch.accelerator, accelerator)
        change(torch.Tensor, tensor)
        change(torch, switches)
        change(torch._C, {"_group_tensors_by_device_and_dtype": group_by_place})
        change(torch.serialization, {"_package_registry": [files, *torch.serialization._package_registry]})
        change(chunked_logprob, TRL_KERNELS)
        change(trl_utils, {"is_triton_available": lambda: False})
        yield stack.enter_context(Places())
