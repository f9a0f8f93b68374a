# compat: limit 400
# compat: restarts 40
# compat: parts 8
"""Every operator and module that PyTorch's own tests know, with their sample inputs: forward and backward."""

import itertools
import random
import sys
import types
import unittest
import warnings

from compat import DEVICE, need, save
from suite import run, save_tensor

torch = need("torch")
numpy = need("numpy")
warnings.filterwarnings("ignore")
try:
    import expecttest
except ImportError:
    # PyTorch's list of operators imports it for tests that do not run here.
    sys.modules["expecttest"] = types.ModuleType("expecttest")
    sys.modules["expecttest"].TestCase = unittest.TestCase
# They read the command line.
arguments, sys.argv = sys.argv, sys.argv[:1]
from torch.testing._internal.common_methods_invocations import op_db
from torch.testing._internal.common_modules import module_db
from torch.utils._pytree import tree_flatten

sys.argv = arguments

KINDS = [torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.complex64, torch.bool]
# Which of the first samples are taken.
SAMPLES = (0, 2, 5)
# What these give, or some of it, is not initialised.
UNINITIALISED = ("empty", "new_empty", "empty_like", "empty_strided", "empty_permuted", "new_empty_strided", "_efficient_attention_forward")


def seed():
    random.seed(0)
    numpy.random.seed(0)
    torch.manual_seed(0)


def save_all(name, value):
    for at, leaf in enumerate(tree_flatten(value)[0]):
        if isinstance(leaf, torch.Tensor):
            save_tensor(f"{name} {at}", leaf)
        elif isinstance(leaf, (bool, int, float, complex, str)):
            save(f"{name} {at}", leaf if isinstance(leaf, str) else repr(leaf))


def backward(name, out, inputs):
    """Saves the gradients of what can be differentiated."""
    outs = [one for one in tree_flatten(out)[0] if isinstance(one, torch.Tensor) and one.requires_grad and one.layout == torch.strided]
    inputs = [one for one in tree_flatten(inputs)[0] if isinstance(one, torch.Tensor) and one.requires_grad]
    if outs and inputs:
        gradients = torch.autograd.grad(outs, inputs, [torch.ones_like(one) for one in outs], allow_unused=True)
        save_all(f"{name} gradient", [one for one in gradients if one is not None])


def operator(op, kind):
    def work(name):
        differentiable = (kind.is_floating_point or kind.is_complex) and kind in op.supported_backward_dtypes(DEVICE) and op.supports_autograd
        seed()
        samples = list(itertools.islice(op.sample_inputs(DEVICE, kind, requires_grad=differentiable), max(SAMPLES) + 1))
        for at in SAMPLES:
            if at >= len(samples):
                break
            sample = samples[at]
            seed()
            own = f"{name} {at}"
            out = op(sample.input, *sample.args, **sample.kwargs)
            save_all(own, out)
            if differentiable:
                processed = sample.output_process_fn_grad(out)
                backward(own, processed, (sample.input, sample.args, sample.kwargs))
        if DEVICE == "cuda":
            torch.cuda.synchronize()

    return work


def module(info, kind):
    def work(name):
        for training in (True, False):
            seed()
            inputs = info.module_inputs_func(info, device=DEVICE, dtype=kind, requires_grad=True, training=training)
            for at, one in enumerate(itertools.islice(inputs, 3)):
                if one.forward_input is None:
                    continue
                seed()
                made = info.module_cls(*one.constructor_input.args, **one.constructor_input.kwargs)
                made = made.to(DEVICE).to(kind) if isinstance(made, torch.nn.Module) else made
                made.train(training)
                out = made(*one.forward_input.args, **one.forward_input.kwargs)
                own = f"{name} {training} {at}"
                save_all(own, out)
                backward(own, out, (one.forward_input.args, one.forward_input.kwargs, list(made.parameters())))
        if DEVICE == "cuda":
            torch.cuda.synchronize()

    return work


def items():
    taken = set()
    for op in op_db:
        if op.name.split(".")[-1] in UNINITIALISED:
            continue
        full = f"{op.name}.{op.variant_test_name}" if op.variant_test_name else op.name
        supported = op.supported_dtypes(DEVICE)
        for kind in KINDS:
            name = f"{full} {str(kind).split('.')[1]}"
            if kind in supported and name not in taken:
                taken.add(name)
                yield name, operator(op, kind)
    for info in module_db:
        for kind in (torch.float32, torch.float16):
            name = f"{info.name} {str(kind).split('.')[1]}"
            if kind in info.supported_dtypes(DEVICE) and name not in taken:
                taken.add(name)
                yield name, module(info, kind)


def healthy():
    if DEVICE == "cuda":
        torch.cuda.synchronize()
        torch.zeros(1, device=DEVICE).add_(1).item()


if __name__ == "__main__":
    run(list(items()), healthy)
