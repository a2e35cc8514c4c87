"""Optimizers that do not import torch's compiler, which takes more than a second."""

import inspect

import torch


class EagerOptimizer(torch.optim.Optimizer):
    """An optimizer whose methods are called outside compiled code only.

    torch tells its compiler to leave these methods alone, in wrappers that import the compiler at the first call. Here
    they are the methods inside the wrappers.
    """

    add_param_group = inspect.unwrap(torch.optim.Optimizer.add_param_group)
    load_state_dict = inspect.unwrap(torch.optim.Optimizer.load_state_dict)
    state_dict = inspect.unwrap(torch.optim.Optimizer.state_dict)
    zero_grad = inspect.unwrap(torch.optim.Optimizer.zero_grad)


class Adam(EagerOptimizer, torch.optim.Adam):
    """torch's Adam, not differentiable."""

    step = torch.no_grad()(inspect.unwrap(torch.optim.Adam.step))


class SGD(EagerOptimizer, torch.optim.SGD):
    """torch's SGD, not differentiable."""

    step = torch.no_grad()(inspect.unwrap(torch.optim.SGD.step))
