"""What every statistic is called, in which unit it is printed, and what it means to somebody new to the field."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

__all__ = ["BASELINE_PREFIXES", "STATISTICS", "Statistic", "is_baseline", "statistic"]


@dataclass(frozen=True)
class Statistic:
    """How a statistic is called, printed and explained; `baseline` is what its "chance" value is."""

    label: str
    unit: Literal["percent", "number", "count"]
    meaning: str
    baseline: str = "chance"


_RECONSTRUCTION = {
    "identification_rate": Statistic(
        "training images identified",
        "percent",
        "Identification rate: the share of private training images that are the nearest of all candidates of "
        "their class to what the adversary claims. Chance is the share that guessing among them would give.",
    ),
    "identification_rate_pixels": Statistic(
        "identified by pixels alone",
        "percent",
        "The same with the nearest candidate taken by pixel distance instead of the adversary's own features.",
    ),
    "tpr_at_fpr_1pct": Statistic(
        "rebuilt (TPR at 1 % FPR)",
        "percent",
        "True-positive rate at 1 % false-positive rate: a threshold on the pixel error is set so that at "
        "most one in a hundred images of other heads would pass for a reconstruction; the rate is the share of "
        "the head's own training images that pass. Chance is 1 %.",
    ),
    "tpr_at_fpr_1pct_by_class": Statistic(
        "rebuilt (TPR at 1 % FPR, by class)",
        "percent",
        "The same with a threshold for each class: images of some classes (the digit one) are so alike that "
        "they alone set a common threshold. Chance is 1 %.",
    ),
    "tpr_at_fpr_0.1pct": Statistic(
        "rebuilt (TPR at 0.1 % FPR)",
        "percent",
        "The same with a threshold that one in a thousand images of other heads would pass. Chance is 0.1 %.",
    ),
    "mse": Statistic(
        "pixel error (MSE)",
        "number",
        "Mean squared error per pixel, for pixels from −1 to 1, against the nearest training image of the "
        "class. The baseline is the same claim against images of other heads: lower means leakage.",
        baseline="baseline",
    ),
    "psnr": Statistic(
        "peak signal-to-noise ratio (dB)",
        "number",
        "10 log₁₀ (4 / MSE), averaged over images; higher is closer. The baseline is against images of other heads.",
        "baseline",
    ),
    "ssim": Statistic(
        "structural similarity (SSIM)",
        "number",
        "Structural similarity of claimed and true image; 1 means equal. The baseline is another head's image of "
        "the same class.",
        "baseline",
    ),
    "backbone_distance": Statistic(
        "distance in the backbone",
        "number",
        "How far apart the public backbone puts the claimed and the true image, in lengths of a typical feature "
        "vector; 0 is the same picture to it. The baseline is against images of other heads.",
        "baseline",
    ),
    "nn_threshold_rate": Statistic(
        "closer than a nearest neighbour",
        "percent",
        "Share of claims closer to a true image than a private image is, on average, to the nearest public one of its "
        "class. Chance is the share that passes against images of other heads.",
    ),
    "np_tpr_at_fpr_1pct": Statistic(
        "told from random heads (1 % FPR)",
        "percent",
        "The paper's own test: share of true heads' claims accepted when at most one in a hundred claims made from "
        "random heads is, by the ratio of two fitted normal distributions (fitted on one half of the heads, "
        "counted on the other).",
    ),
    "np_tpr_at_fpr_1pct_by_class": Statistic(
        "told from random heads, fitted for each class",
        "percent",
        "The paper's test with distributions fitted for each class.",
    ),
    "np_tpr_at_fpr_1pct_analytic": Statistic(
        "told from random heads, read off the fits",
        "percent",
        "The paper's analytic curve at 1 %: what the fitted distributions promise, not what was counted.",
    ),
}
_HEADS = {
    "head_cosine": Statistic(
        "head weights recovered (cosine)",
        "number",
        "Cosine between claimed and true weights of the head, both centred over the classes: 1 is the head "
        "itself. The baseline is the cosine with other victims' heads.",
        baseline="baseline",
    ),
    "extraction_agreement": Statistic(
        "classifier copied",
        "percent",
        "Share of decisions on fresh images in which the adversary's copy agrees with the head. The baseline is how "
        "often the same copy agrees with other victims' heads.",
        "baseline",
    ),
    "extraction_agreement_mixes": Statistic(
        "classifier copied, on random mixes",
        "percent",
        "The same on random mixtures of features, where decisions are less obvious than on images.",
        "baseline",
    ),
    "weights_within_8_bits": Statistic(
        "weights known to 8 bits",
        "percent",
        "Share of the head's weights that the copy has to within 1/256 of their range, up to one factor and "
        "a shift of all classes, which decide nothing. The baseline is the same against other victims' heads.",
        "baseline",
    ),
    "bits_per_weight": Statistic(
        "bits known of each weight",
        "number",
        "How finely the weights' range would have to be cut for rounding to make errors as small as the copy's. The "
        "baseline is the same against other victims' heads.",
        "baseline",
    ),
    "queries": Statistic(
        "questions asked per head",
        "count",
        "Images whose decision the adversary asked the key holder for, as the key holder counted them.",
    ),
}
_MEMBERSHIP = {
    "auc": Statistic(
        "members told apart (AUC)",
        "number",
        "Membership: the adversary scores candidate images, some of which the head was trained on. The AUC is the "
        "probability that a training image scores above another one: 0.5 is guessing, 1 is certainty.",
    ),
    "advantage": Statistic(
        "advantage over guessing",
        "percent",
        "True minus false positive rate at the best threshold, which is chosen on one half of the heads and counted on "
        "the other; 0 without leakage.",
    ),
    "epsilon_lower_bound": Statistic(
        "privacy loss ε, at least",
        "number",
        "No mechanism with a smaller ε (at δ = 10⁻⁵ unless stated) could have let this attack succeed so often, with "
        "95 % confidence, for training sets that differ in one exchanged image. The bracket runs from this bound to "
        "the estimate without safety margin.",
    ),
}
_MEMBERSHIP_RATES = {
    f"tpr_at_fpr_{rate}pct": Statistic(
        f"members recognised (TPR at {rate} % FPR)",
        "percent",
        f"Share of training images recognised by a threshold on the score that at most {words} of the images that "
        f"were not trained on pass. Chance is {rate} %.",
    )
    for rate, words in (("10", "one in ten"), ("1", "one in a hundred"), ("0.1", "one in a thousand"))
}
_PROPERTY = {
    "property_accuracy": Statistic(
        "private property guessed",
        "percent",
        "Share of heads of which the adversary named the right value of a property that their whole training set has, "
        "such as its share of one class. The baseline is always naming the most frequent value.",
        "best constant guess",
    ),
    "property_auc": Statistic(
        "private property told apart (AUC)",
        "number",
        "Probability that a head with the second value scores above one with the first; 0.5 is guessing.",
    ),
    "property_mae": Statistic(
        "error of the guessed property",
        "number",
        "Mean absolute difference between the guessed and the true value. The baseline is the best constant guess.",
        "best constant guess",
    ),
}
_INPUTS = {
    "input_identification_rate": Statistic(
        "classified images recognised",
        "percent",
        "Share of classified images that are nearest to what the adversary made of what was released about them, among "
        "the head's inputs of the same class. Chance is guessing among those.",
    ),
    "input_tpr_at_fpr_1pct": Statistic(
        "inputs rebuilt (TPR at 1 % FPR)",
        "percent",
        "Share of claims accepted by a threshold on the pixel error that at most one in a hundred other inputs of the "
        "class passes. Chance is 1 %.",
    ),
    "input_mse": Statistic(
        "pixel error of inputs (MSE)",
        "number",
        "Mean squared error per pixel of the claimed inputs. The baseline is the same claim against the head's other "
        "inputs of the class.",
        "baseline",
    ),
    "input_mse_members": Statistic(
        "pixel error of inputs that are training images",
        "number",
        "The pixel error for those inputs that the head was trained on.",
        "baseline",
    ),
    "input_ssim": Statistic(
        "structural similarity of inputs (SSIM)",
        "number",
        "Structural similarity of claimed and true input; 1 means equal.",
        "baseline",
    ),
}
_UTILITY = {
    "accuracy": Statistic("accuracy", "percent", "Share of correct decisions on images that no head was trained on."),
    "float_agreement": Statistic(
        "decides as the float head",
        "percent",
        "Share of decisions equal to those of the head before rounding.",
    ),
    "twin_agreement": Statistic(
        "decides as the integer twin",
        "percent",
        "Share of decisions equal to those of the same integers without encryption; 100 % if exact.",
    ),
}

STATISTICS: dict[str, Statistic] = {
    **_RECONSTRUCTION,
    **_HEADS,
    **_MEMBERSHIP,
    **{f"membership_{name}": words for name, words in _MEMBERSHIP_RATES.items()},
    **_PROPERTY,
    **_INPUTS,
    **_UTILITY,
}

#: Prefix of a statistic's name, and what it says of the statistic that follows.
BASELINE_PREFIXES = {
    "null_": "on an empty input",
    "class_mean_": "average public image of the class",
    "nearest_public_": "nearest public image",
}


def is_baseline(name: str) -> bool:
    """Whether the statistic says what somebody gets who has seen nothing of the head."""
    return name.startswith(tuple(BASELINE_PREFIXES))


def statistic(name: str, membership: bool = False) -> Statistic:
    """Words for a statistic; one that is not known here is shown under its own name.

    Args:
        membership: the statistic belongs to an attack on membership, whose true-positive rates mean something else.
    """
    for prefix, words in BASELINE_PREFIXES.items():
        if name.startswith(prefix):
            inner = statistic(name.removeprefix(prefix), membership)
            return replace(inner, label=f"{words}: {inner.label}", meaning="")
    if membership and name in _MEMBERSHIP_RATES:
        return _MEMBERSHIP_RATES[name]
    return STATISTICS.get(name) or _MEMBERSHIP_RATES.get(name) or Statistic(name.replace("_", " "), "number", "")
