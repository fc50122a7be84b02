"""One walk back through a function, as the engine records and walks it."""

import torch
from torch import Tensor

from relprop.recording.graph import Corrected, Relevance
from relprop.recording.record import Recording
from relprop.recording.recorder import Recorder
from relprop.recording.tags import PIXELS
from relprop.rules import Corrections, rule_set


def recorded(function, *inputs: Tensor, role=PIXELS) -> tuple[Tensor, Recording]:
    """What a function returns, as a model's function of the inputs, which become sources."""
    recorder = Recorder(len(inputs[0]))
    for i, x in enumerate(inputs):
        recorder.add_source(f"input {i}", x, role)
    with recorder:
        output = function(*inputs)
    return output, recorder.recording


def walk_back(function, relevance: Tensor, *inputs: Tensor, rules="paper", eps=0.0, role=PIXELS):
    """The relevance of the inputs of a function; by corrections, their gradient."""
    inputs = [x.clone() for x in inputs]
    output, recording = recorded(function, *inputs, role=role)
    chosen, running = rule_set(rules), recording.running
    walk = Relevance(chosen, eps, len(relevance), running)
    if isinstance(chosen, Corrections):
        walk = Corrected(chosen.rules, eps, running)
    with recording.walk(walk):
        return torch.autograd.grad(output, inputs, relevance)
