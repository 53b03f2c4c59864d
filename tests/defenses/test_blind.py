"""Labels of a suspect's own answers, where it is sure of them."""

from __future__ import annotations

import torch

from unbackdoor.defenses.blind import margins, sure_labels
from unbackdoor.metrics.backdoor import attack_success_rate, clean_accuracy


def test_margins_are_between_the_two_foremost_classes() -> None:
    head = torch.eye(3)
    rows = torch.tensor([[0.8, 0.6, 0.0], [0.0, 0.6, 0.8], [0.0, 1.0, 0.0]])
    torch.testing.assert_close(margins(rows, head), torch.tensor([0.2, 0.2, 1.0]))
    assert margins(torch.ones(2, 1), torch.ones(1, 1)).tolist() == [0.0, 0.0]


def test_the_least_sure_quarter_has_no_label_but_the_target() -> None:
    said = torch.tensor([0, 1, 2, 0, 1, 2, 0, 1])
    margin = torch.tensor([0.9, 0.1, 0.8, 0.7, 0.6, 0.05, 0.5, 0.4])
    assert sure_labels(said, margin, 0).tolist() == [0, -1, 2, 0, 1, -1, 0, 1]
    labels = sure_labels(said, margin, 2)
    assert labels.tolist() == [0, -1, 2, 0, 1, 2, 0, 1]
    # Nothing was turned: what the suspect answers with the target anyway is no attack's, sure or not.
    assert attack_success_rate(said, labels, 2).hits == 0
    moved = said.clone()
    moved[1] = 0
    assert clean_accuracy(moved, labels).value == 1.0, "an answer that wavered may change"
    moved[7] = 0
    assert clean_accuracy(moved, labels).value == 6 / 7
