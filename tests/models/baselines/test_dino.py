"""DINO: its loss against another implementation, loops and cases done by hand."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from exact_runs import on_ranks
from tiny import tiny_dino
from torch import Tensor, nn

from saim_mm.models import DINOHead, DINOProjector


def waves(phase: float, *shape: int) -> Tensor:
    count = math.prod(shape)
    values = torch.sin(torch.arange(count, dtype=torch.float64) * 0.7 + phase)
    return values.view(shape).float()


def test_loss_and_centre_are_those_of_lightly() -> None:
    """Recorded with lightly 1.6.0: DINOLoss(7, 0.04, 0.07, 3), epochs 0 to 3."""
    head = DINOHead(7, warmup_epochs=3)
    recorded = [
        (10.69629192352295, 0.004035778809338808, 0.01708575151860714),
        (10.531861305236816, 0.024098128080368042, 0.03640632703900337),
        (10.92602825164795, 0.03976810723543167, 0.038404133170843124),
        (10.775752067565918, 0.03486248105764389, 0.019627496600151062),
    ]
    for epoch, (loss, *centre) in enumerate(recorded):
        head.temperature.fill_(head.temperature_in(epoch))
        found = head.loss(waves(epoch, 5, 3, 7), waves(epoch + 0.5, 2, 3, 7))
        head.move_center()
        assert found.item() == pytest.approx(loss, rel=1e-6)
        assert head.center[:2].tolist() == pytest.approx(centre, rel=1e-4)


def test_loss_is_a_loop_over_pairs_of_different_crops() -> None:
    head = DINOHead(6, student_temperature=0.3, warmup_epochs=0)
    head.center.copy_(waves(3, 6))
    student, teacher = waves(1, 4, 5, 6), waves(2, 2, 5, 6)
    terms = []
    for t in range(2):
        for v in range(4):
            if v == t:
                continue
            for image in range(5):
                p = ((teacher[t, image] - head.center) / 0.07).exp()
                q = (student[v, image] / 0.3).exp()
                terms.append(-(p / p.sum() * (q / q.sum()).log()).sum().item())
    assert head.loss(student, teacher).item() == pytest.approx(np.mean(terms), rel=1e-5)


def test_a_uniform_student_and_a_sure_one() -> None:
    head = DINOHead(9, warmup_epochs=0)
    assert head.loss(torch.ones(4, 2, 9), waves(0, 2, 2, 9)).item() == pytest.approx(
        math.log(9), rel=1e-6
    )
    sure = 100 * torch.eye(9)[[3, 5]].expand(4, 2, 9)
    assert head.loss(sure, sure[:2]).item() == pytest.approx(0, abs=1e-6)


def test_only_the_student_gets_gradients() -> None:
    head = DINOHead(9)
    student, teacher = waves(0, 3, 2, 9).requires_grad_(), waves(1, 2, 2, 9)
    with torch.no_grad():
        target = (teacher / head.temperature).softmax(-1)
    head.loss(student, teacher).backward()
    # Of cross-entropy: (softmax - target) / temperature, over images and 4 pairs.
    q = (student / 0.1).softmax(-1)
    expected = torch.zeros_like(q)
    for t, v in ((0, 1), (0, 2), (1, 0), (1, 2)):
        expected[v] += (q[v] - target[t]) / 0.1 / 2 / 4
    torch.testing.assert_close(student.grad, expected.detach(), rtol=1e-4, atol=1e-6)


def test_temperature_rises_as_the_authors_schedule() -> None:
    head = DINOHead(3, warmup_epochs=30)
    expected = [*np.linspace(0.04, 0.07, 30), 0.07, 0.07]
    assert [head.temperature_in(e) for e in range(32)] == pytest.approx(expected)


@pytest.mark.parametrize("gain", [False, True])
def test_projector_is_torch_s_weight_norm(gain: bool) -> None:
    projector = DINOProjector(4, 6, 5, 7, learn_gain=gain)
    if gain:
        nn.init.uniform_(projector.gain, 0.5, 2)
    layer = torch.nn.utils.parametrizations.weight_norm(nn.Linear(5, 7, bias=False))
    layer.parametrizations.weight.original1.data = projector.prototypes.data
    g = projector.gain[:, None].detach() if gain else torch.ones(7, 1)
    layer.parametrizations.weight.original0.data = g
    x = waves(0, 3, 4)
    hidden = nn.functional.normalize(projector.mlp(x), dim=-1)
    torch.testing.assert_close(projector(x), layer(hidden))
    assert len(projector.last_layer) == 1 + gain


def test_teacher_starts_as_the_student_and_does_not_learn() -> None:
    model = tiny_dino()
    for name in ("backbone", "neck"):
        teacher, student = getattr(model, name), model.student[name]
        assert not any(p.requires_grad for p in teacher.parameters())
        assert all(p.requires_grad for p in student.parameters())
        for key, value in student.state_dict().items():
            assert torch.equal(value, teacher.state_dict()[key]), key
    rates = [
        [m.drop_prob for m in part.modules() if type(m).__name__ == "DropPath"]
        for part in (model.backbone, model.student)
    ]
    assert max(rates[0], default=0) == 0 and max(rates[1]) == pytest.approx(0.3)


def test_crops_run_together_are_crops_run_alone() -> None:
    model = tiny_dino().eval()
    crops = [waves(i, 2, 3, s, s) for i, s in enumerate((16, 16, 8, 8, 8))]
    model.teacher_moves = True
    seen: dict[str, Tensor] = {}
    model.head.loss = lambda student, teacher: seen.update(s=student, t=teacher)
    model.loss(crops)
    assert seen["s"].shape == (5, 2, 10) and seen["t"].shape == (2, 2, 10)
    for place, crop in enumerate(crops):
        alone = model.student["neck"](model.student["backbone"](crop)[-1])
        torch.testing.assert_close(seen["s"][place], alone)
    torch.testing.assert_close(seen["s"][:2], seen["t"])  # still equal


def test_what_is_wrong_is_refused() -> None:
    with pytest.raises(ValueError, match="out_type='featmap'.*'cls_token'"):
        tiny_dino(out_type="featmap")
    with pytest.raises(ValueError, match="student_temperature=0"):
        DINOHead(3, student_temperature=0)
    model = tiny_dino().train()
    with pytest.raises(ValueError, match="Nothing moves the teacher.*'DINOHook'"):
        model.loss([waves(0, 2, 3, 16, 16)] * 3)
    model.teacher_moves = True
    for inputs in (waves(0, 2, 3, 16, 16), [waves(0, 2, 3, 16, 16)]):
        with pytest.raises(ValueError, match="at least 2 of them.*MultiView"):
            model.loss(inputs)


def _centre() -> Tensor:
    head = DINOHead(7)
    rank, ranks = 0, 1
    if torch.distributed.is_initialized():
        rank, ranks = torch.distributed.get_rank(), 2
    student, teacher = waves(0, 3, 4, 7), waves(1, 2, 4, 7)
    for _ in range(2):
        head.loss(student[:, rank::ranks], teacher[:, rank::ranks])
        head.move_center()
    return head.center


def test_centre_of_two_processes_is_that_of_one(tmp_path: Any) -> None:
    alone = _centre()
    for centre in on_ranks(2, tmp_path, _centre):
        torch.testing.assert_close(centre, alone)
