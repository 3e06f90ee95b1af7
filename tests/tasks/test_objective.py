"""The projection of all outputs on random signs: its expectation, its gradient, and what it leaves out."""

from __future__ import annotations

import pytest
import torch

from qvit_deploy.errors import InputError
from qvit_deploy.tasks.objective import Spread, projection

IMAGES = 400


@pytest.fixture
def outputs() -> dict[str, torch.Tensor]:
    """Outputs of other sizes and scales, one of them large beside what varies."""
    g = torch.Generator().manual_seed(0)
    return {
        "map": 1e-6 * torch.randn(IMAGES, 3, 4, generator=g),
        "boxes": 5000 + torch.randn(IMAGES, 2, generator=g),
        "anchors": torch.arange(8.0).expand(IMAGES, 8),
    }


def test_its_squared_change_is_in_expectation_the_sum_of_the_noise_to_signal_ratios(
    outputs: dict[str, torch.Tensor],
) -> None:
    random = torch.Generator().manual_seed(1)
    share = {"map": 0.1, "boxes": 0.3}
    noise = {name: share[name] * outputs[name].double().std(0) * torch.randn(outputs[name].shape, generator=random)
             for name in share}  # fmt: skip
    doubles = {name: value.double() for name, value in outputs.items()}
    noisy = {name: value + noise.get(name, 0) for name, value in doubles.items()}
    expected = sum(
        float(noise[name].square().sum() / (doubles[name] - doubles[name].mean(0)).square().sum()) for name in noise
    )
    # Two objectives of the same seed draw the same signs.
    squares = []
    for seed in range(20):
        before, after = (projection([doubles], seed)(each) for each in (doubles, noisy))
        squares.append((after - before).square().mean())
    assert float(torch.stack(squares).mean()) == pytest.approx(expected, rel=0.05)
    assert expected == pytest.approx(0.1**2 + 0.3**2, rel=0.2)


def test_an_output_of_one_number_per_image_counts() -> None:
    depth = torch.tensor([1.0, 3.0, 5.0], dtype=torch.float64)
    (scaled,) = {tuple(projection([{"depth": depth}], 0)({"depth": depth}).abs().tolist())}
    assert scaled == pytest.approx((depth / depth.std(correction=0)).tolist())


def test_its_gradient_is_that_of_finite_differences(outputs: dict[str, torch.Tensor]) -> None:
    few = {name: value[:3].double() for name, value in outputs.items()}
    x = torch.linspace(-1, 1, 12, dtype=torch.float64).reshape(3, 4).requires_grad_()

    def of(x: torch.Tensor) -> torch.Tensor:
        computed = {"map": 1e-6 * torch.stack([x.sin()] * 3, 1), "boxes": 5000 + (x[:, :2] * x[:, 2:]),
                    "anchors": few["anchors"]}  # fmt: skip
        return projection([few], seed=0)(computed)

    assert torch.autograd.gradcheck(of, x, eps=1e-4, atol=1e-5)


def test_signs_are_fresh_for_every_image_and_call_and_do_not_depend_on_batches(
    outputs: dict[str, torch.Tensor],
) -> None:
    one, other, seeded = (projection([outputs], seed) for seed in (0, 0, 1))
    whole = one(outputs)
    parts = [other({name: value[i : i + 20] for name, value in outputs.items()}) for i in range(0, IMAGES, 20)]
    assert torch.equal(torch.cat(parts), whole)
    assert not torch.equal(one(outputs), whole) and not torch.equal(seeded(outputs), whole)
    same = {name: value[:1].expand(6, *value.shape[1:]) for name, value in outputs.items()}
    assert len(projection([outputs], 0)(same).unique()) > 1


def test_outputs_that_say_nothing_of_the_image_are_refused_when_there_is_no_other() -> None:
    with pytest.raises(InputError, match="every output of the model is the same for all calibration images"):
        projection([{"anchors": torch.ones(2, 4)}, {"anchors": torch.ones(2, 4)}], 0)


def test_the_power_is_the_variance_over_images_of_any_batches() -> None:
    values = torch.randn(7, 2, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    spread = Spread()
    for batch in values.split(3):
        spread.add({"values": batch, "constant": torch.ones(len(batch), 2)})
    assert spread.powers() == {"values": pytest.approx(float(values.var(0, correction=0).mean()))}


def test_a_single_image_is_measured_by_its_mean_square() -> None:
    spread = Spread()
    spread.add({"values": torch.tensor([[3.0, 4.0]])})
    assert spread.powers() == {"values": 12.5}
