# Copyright 2026 The hf_cong authors. Licensed under the Apache License, Version 2.0.
import json
import math
from pathlib import Path

import pytest
import torch

from hf_cong.functional import (
    contrastive_scores,
    implicit_reward,
    official_scores,
    plausibility_mask,
    sequence_logps,
    token_logps,
)

GOLDEN = json.loads((Path(__file__).parent / "golden" / "contrastive_scores.json").read_text())


def logits(*shape, seed=0, scale=3.0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)) * scale


@pytest.mark.parametrize("case", GOLDEN, ids=lambda case: case["name"])
def test_golden(case):
    assert len(GOLDEN) == 10
    for shift in (0.0, 7.5, -30.0):  # logits are defined up to a constant
        scores = contrastive_scores(
            torch.tensor(case["policy"]).log() + shift,
            torch.tensor(case["reference"]).log() - shift,
            alpha=case["alpha"],
            plausibility_threshold=case["threshold"],
            mask=case["mask"],
        )
        torch.testing.assert_close(scores.exp(), torch.tensor(case["expected"]), atol=2e-6, rtol=0)


# The same decoding in other papers' coordinates (α, temperature T).


@pytest.mark.parametrize("alpha", [0.3, 0.4, 0.5, 0.7, 1.0])
@pytest.mark.parametrize("temperature", [0.8, 1.0])
def test_alpha_in_the_coordinates_of_its_relatives(alpha, temperature):
    policy, reference = logits(64, 50, seed=1), logits(64, 50, seed=2)
    ours = (contrastive_scores(policy, reference, alpha=alpha, mask=False) / temperature).softmax(-1)
    post, pre = policy.double().log_softmax(-1), reference.double().log_softmax(-1)
    relatives = {
        "contrast strength b at T/alpha": (lambda b: (1 + b) * post - b * pre)((1 - alpha) / alpha),
        "realignment lambda at T/alpha": (lambda s: s * post + (1 - s) * pre)(1 / alpha),
        "proxy tuning of the policy by itself": post + (1 - alpha) / alpha * (post - pre),
    }
    for name, scores in relatives.items():
        theirs = (scores / (temperature / alpha)).softmax(-1)
        assert (ours.double() - theirs).abs().max() < 1e-6, name
    plain = ((post - (1 - alpha) * pre) / temperature).softmax(-1)  # Li et al., student coefficient 1 - alpha
    assert (ours.double() - plain).abs().max() < 1e-6
    if alpha < 1:  # the control: forgetting that alpha is a temperature
        wrong = (relatives["realignment lambda at T/alpha"] / temperature).softmax(-1)
        assert (ours.double() - wrong).abs().max() > 1e-3


def test_greedy_does_not_depend_on_the_scale_of_alpha():
    policy, reference = logits(64, 50, seed=1), logits(64, 50, seed=2)
    scores = contrastive_scores(policy, reference, alpha=0.4, mask=False)
    lam = 1 / 0.4
    assert torch.equal(scores.argmax(-1), (lam * policy + (1 - lam) * reference).argmax(-1))


# Number hygiene


@pytest.mark.parametrize("mask", [True, False])
@pytest.mark.parametrize("alpha", [0.0, 0.4, 1.0])
def test_never_nan(mask, alpha):
    rows = logits(10_000, 32, seed=3, scale=5.0)
    rows[::4, :7] = -math.inf
    rows[1::4] = 0.0
    rows[2::4, 3] = 1e4
    rows[2::4, 4] = -1e4
    other = logits(10_000, 32, seed=4, scale=5.0)
    other[::3, 2:9] = -math.inf
    other[::5] = -1e4
    other[::7, 0] = 1e4
    for reference in (other, other.flip(0), rows):
        scores = contrastive_scores(rows, reference, alpha=alpha, mask=mask)
        assert not scores.isnan().any()
        assert (scores < math.inf).all()
        torch.testing.assert_close(scores.exp().sum(-1), torch.ones(len(rows)), atol=1e-4, rtol=0)
        assert (scores[rows == -math.inf] == -math.inf).all()  # what the policy forbids stays forbidden


def test_every_row_keeps_the_policys_best_token():
    policy = logits(10_000, 32, seed=5)
    for threshold in (0.0, 0.1, 0.9999):
        kept = plausibility_mask(policy, threshold)
        assert kept.gather(-1, policy.argmax(-1, keepdim=True)).all()
    scores = contrastive_scores(policy, logits(10_000, 32, seed=6), alpha=0.0, plausibility_threshold=0.999999)
    assert torch.equal(scores.argmax(-1), policy.argmax(-1))


@pytest.mark.parametrize("bad", [-math.inf, math.nan, math.inf])
@pytest.mark.parametrize("side", ["policy", "reference"])
def test_a_row_with_no_next_token_raises(bad, side):
    rows = {"policy": logits(3, 8), "reference": logits(3, 8, seed=1)}
    rows[side][2] = bad
    with pytest.raises(ValueError, match=r"row \(2,\) is forbidden"):
        contrastive_scores(rows["policy"], rows["reference"])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_float32_inside_whatever_comes_in(dtype):
    policy, reference = logits(16, 64, seed=1).to(dtype), logits(16, 64, seed=2).to(dtype)
    scores = contrastive_scores(policy, reference)
    assert scores.dtype == torch.float32
    assert torch.equal(scores, contrastive_scores(policy.float(), reference.float()))
    assert plausibility_mask(policy).dtype == torch.bool
    assert token_logps(policy[None], torch.zeros(1, 16, dtype=torch.long)).dtype == torch.float32
    # the control: the contrast in the low precision itself is not the same
    if dtype != torch.float64:
        low = policy.log_softmax(-1) - 0.6 * reference.log_softmax(-1)
        assert (low.float().log_softmax(-1) - contrastive_scores(policy, reference, mask=False)).abs().max() > 1e-3


def test_the_floor_is_soft():
    scores = contrastive_scores(torch.tensor([0.0, -9.0, -5.0]), torch.zeros(3))
    assert scores.exp().tolist() == [1.0, 0.0, 0.0]
    assert -math.inf < scores[1] < scores[2] < -9e3  # the policy's order survives


def test_padded_heads_are_cut_on_either_side():
    policy, reference = logits(4, 20, seed=1), logits(4, 16, seed=2)
    expected = contrastive_scores(policy[:, :16], reference)
    assert torch.equal(contrastive_scores(policy, reference), expected)
    assert contrastive_scores(reference, policy).shape == (4, 16)


def test_shapes_that_do_not_belong_together_are_refused():
    with pytest.raises(ValueError, match=r"\(4, 16\) and \(3, 16\)"):
        contrastive_scores(logits(4, 16), logits(3, 16))
    with pytest.raises(ValueError, match=r"\(4, 16\) and \(3, 16\)"):
        official_scores(logits(4, 16), logits(3, 16))
    with pytest.raises(ValueError, match="must lie in"):
        plausibility_mask(logits(4, 16), 1.5)
    with pytest.raises(ValueError, match="must score the same tokens"):
        implicit_reward(torch.zeros(3), torch.zeros(2))


@pytest.mark.parametrize(("alpha", "threshold"), [(-0.01, 0.1), (1.01, 0.1), (0.4, 1.0), (0.4, -0.1), (math.nan, 0.1)])
def test_out_of_range(alpha, threshold):
    with pytest.raises(ValueError, match="must lie in"):
        contrastive_scores(logits(8), logits(8), alpha=alpha, plausibility_threshold=threshold)


def test_gradients_flow_to_both_models():
    policy, reference = logits(4, 16, seed=1).requires_grad_(), logits(4, 16, seed=2).requires_grad_()
    contrastive_scores(policy, reference, mask=False)[:, 0].sum().backward()
    assert policy.grad.abs().sum() > 0 and reference.grad.abs().sum() > 0


# Log-probabilities and rewards


def test_sequence_logps_sum_the_completion_only():
    rows, ids = logits(2, 5, 9, seed=1), torch.tensor([[1, 2, 3, 4, 5], [6, 7, 8, -100, -100]])
    mask = torch.tensor([[0, 0, 1, 1, 1], [0, 1, 1, 0, 0]])
    logps = rows.log_softmax(-1)
    expected = torch.stack([logps[0, 2, 3] + logps[0, 3, 4] + logps[0, 4, 5], logps[1, 1, 7] + logps[1, 2, 8]])
    torch.testing.assert_close(sequence_logps(rows, ids, mask), expected)


def test_the_reward_of_a_sequence_is_the_sum_of_its_tokens():
    ids, mask = torch.randint(0, 9, (3, 6)), torch.ones(3, 6)
    policy, reference = logits(3, 6, 9, seed=1), logits(3, 6, 9, seed=2)
    tokens = implicit_reward(token_logps(policy, ids), token_logps(reference, ids), beta=0.5)
    whole = implicit_reward(sequence_logps(policy, ids, mask), sequence_logps(reference, ids, mask), beta=0.5)
    torch.testing.assert_close(tokens.sum(-1), whole)


# The released code's gauge


def released_step(policy, reference, alpha, relative_top, penalty, seen):
    """One step of the released decoding in float64, from its description: filter, refill, contrast, penalty."""
    post, pre = policy.double().log_softmax(-1), reference.double().log_softmax(-1)
    threshold = post.max() + math.log(relative_top)
    pre = torch.where(post < threshold, torch.full_like(pre, -1e-3), pre).log_softmax(-1)
    scores = torch.where(post < threshold, torch.full_like(post, -math.inf), post - (1 - alpha) * pre)
    for token in set(seen):
        scores[token] = scores[token] * penalty if scores[token] < 0 else scores[token] / penalty
    return scores


def test_official_scores_are_the_same_distribution_in_another_gauge():
    policy, reference = logits(20, 200, seed=1), logits(20, 200, seed=2)
    clean, official = contrastive_scores(policy, reference), official_scores(policy, reference)
    torch.testing.assert_close(clean.softmax(-1), official.softmax(-1), atol=1e-6, rtol=1e-5)
    shift = (official - clean)[official > -math.inf]
    assert shift.min() > 2  # about (1 - alpha) * log V


def test_the_official_penalty_by_golden_steps():
    from transformers import RepetitionPenaltyLogitsProcessor

    for step in range(20):
        policy, reference = logits(1, 200, seed=step, scale=1.0), logits(1, 200, seed=100 + step, scale=1.0)
        seen = torch.randint(0, 200, (1, 40), generator=torch.Generator().manual_seed(step))
        seen[0, 0] = policy.argmax()
        scores = official_scores(policy, reference, alpha=0.4)
        ours = RepetitionPenaltyLogitsProcessor(1.2)(seen, scores)[0].softmax(-1)
        theirs = released_step(policy[0], reference[0], 0.4, 0.1, 1.2, seen[0].tolist()).softmax(-1)
        assert (ours.double() - theirs).abs().max() < 1e-6
        # the control: in the normalised gauge the same penalty is another decoding
        clean = RepetitionPenaltyLogitsProcessor(1.2)(seen, contrastive_scores(policy, reference, alpha=0.4))
        assert (clean[0].softmax(-1).double() - theirs).abs().max() > 1e-4
