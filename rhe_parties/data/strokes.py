"""Procedural handwriting: endless invented characters, drawn without fonts, downloads or labels.

A character (class) is a chain of one to three cubic Bézier strokes. A sample of it jitters the control
points, applies an affine map, and is drawn as an antialiased distance field with its own pen and resolution.
Lengths are in pixels of the final image; design units put the character into [-1, 1]².
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = [
    "DEFAULT_STYLE",
    "MAX_STROKES",
    "StrokeStyle",
    "draw_characters",
    "draw_images",
    "draw_samples",
    "render",
]

MAX_STROKES = 3
_SEGMENTS = 10  # straight pieces per cubic: the error stays below a tenth of a pixel at 32 pixels


@dataclass(frozen=True)
class StrokeStyle:
    """How widely the samples of one character differ; ranges are (low, high) of a uniform draw.

    `jitter`: standard deviation of the control points in design units; `rotation` (radians), `shear` and
    `log_scale` are standard deviations of the affine map; `half_size` is half of the longer side of the ink's
    box; `shift` (pixels) its standard deviation off the centre; `pen` the pen's radius and `blur` the width
    of its soft edge. A share `low_resolution` of the images is averaged down to 8 or 12 pixels and back, as
    from a form reader that fills its whole box: `coarse_half_size` and `coarse_pen` hold for those.
    """

    jitter: tuple[float, float] = (0.03, 0.18)
    rotation: float = 0.16
    shear: float = 0.28
    log_scale: float = 0.19
    half_size: tuple[float, float] = (8.5, 14.0)
    shift: float = 0.8
    pen: tuple[float, float] = (0.7, 2.7)
    blur: tuple[float, float] = (0.8, 2.0)
    low_resolution: float = 0.4
    coarse_half_size: tuple[float, float] = (12.5, 15.5)
    coarse_pen: tuple[float, float] = (1.4, 3.2)


DEFAULT_STYLE = StrokeStyle()


def _uniform(generator: torch.Generator, low: float, high: float, *shape: int) -> Tensor:
    return low + (high - low) * torch.rand(shape, generator=generator)


def _box(points: Tensor) -> tuple[Tensor, Tensor]:
    """Centre and half-range [B, 1, 1, 2] of points [B, S, P, 2]."""
    low, high = points.amin(dim=(1, 2), keepdim=True), points.amax(dim=(1, 2), keepdim=True)
    return (low + high) / 2, (high - low) / 2


def _bernstein(steps: int) -> Tensor:
    t = torch.linspace(0.0, 1.0, steps)
    return torch.stack([(1 - t) ** 3, 3 * t * (1 - t) ** 2, 3 * t**2 * (1 - t), t**3], dim=1)


def _trace(control: Tensor) -> Tensor:
    """Points along every stroke: control [B, S, 4, 2] -> [B, S, 11, 2]."""
    return torch.einsum("pc,bscx->bspx", _bernstein(_SEGMENTS + 1), control)


def draw_characters(count: int, generator: torch.Generator) -> Tensor:
    """Invent `count` characters.

    Args:
        count: how many.
        generator: the stream to draw from.

    Returns:
        Control points float32 [count, 3, 4, 2] in [-1, 1]² (longer side of the box = 2). A character with
        fewer strokes repeats its first one, which changes nothing in the picture.
    """
    control = _uniform(generator, -1.0, 1.0, count, MAX_STROKES, 4, 2)
    joined = torch.rand((count, MAX_STROKES), generator=generator) < 0.75
    smooth = torch.rand((count, MAX_STROKES), generator=generator) < 0.55
    straight = torch.rand((count, MAX_STROKES), generator=generator) < 0.25
    stretch = _uniform(generator, 0.4, 1.2, count, MAX_STROKES)
    strokes = torch.rand(count, generator=generator)
    for s in range(MAX_STROKES):
        if s:
            previous = control[:, s - 1]
            control[:, s, 0] = torch.where(joined[:, s, None], previous[:, 3], control[:, s, 0])
            onward = previous[:, 3] + stretch[:, s, None] * (previous[:, 3] - previous[:, 2])
            follow = (joined[:, s] & smooth[:, s])[:, None]
            control[:, s, 1] = torch.where(follow, onward, control[:, s, 1])
        line = control[:, s, :1] + torch.tensor([1 / 3, 2 / 3])[:, None] * (control[:, s, 3:] - control[:, s, :1])
        control[:, s, 1:3] = torch.where(straight[:, s, None, None], line, control[:, s, 1:3])
    used = 1 + (strokes > 0.3).long() + (strokes > 0.65).long()
    spare = torch.arange(MAX_STROKES)[None, :] >= used[:, None]
    control = torch.where(spare[:, :, None, None], control[:, :1], control)
    # Writing is taller than wide.
    control[..., 0] *= _uniform(generator, 0.55, 1.05, count, 1, 1)
    centre, half = _box(_trace(control))
    return (control - centre) / half.amax(dim=-1, keepdim=True).clamp_min(1e-3)


def draw_samples(
    characters: Tensor,
    per_class: int,
    generator: torch.Generator,
    style: StrokeStyle = DEFAULT_STYLE,
    size: int = 32,
) -> Tensor:
    """Write each character `per_class` times, each time differently.

    Args:
        characters: control points [K, 3, 4, 2] from `draw_characters`.
        per_class: samples of each character.
        generator: the stream to draw from.
        style: how much the samples differ.
        size: side of the images in pixels; the style's lengths are for 32 pixels and scale with it.

    Returns:
        float32 images [K·per_class, 1, size, size] in [-1, 1], ordered by character; ink is +1 on -1.
    """
    control = characters.repeat_interleave(per_class, dim=0)
    count, unit = control.shape[0], size / 32
    jitter = _uniform(generator, *style.jitter, count, 1, 1, 1)
    moved = torch.randn(control.shape, generator=generator) * jitter
    # Strokes that were joined, or repeated, must stay so: equal points move equally.
    for s in range(1, MAX_STROKES):
        same = (control[:, s] == control[:, 0]).all(dim=(1, 2))[:, None, None]
        moved[:, s] = torch.where(same, moved[:, 0], moved[:, s])
        joined = (control[:, s, 0] == control[:, s - 1, 3]).all(dim=1)[:, None]
        moved[:, s, 0] = torch.where(joined, moved[:, s - 1, 3], moved[:, s, 0])
    control = torch.einsum("bxy,bscy->bscx", _affine(count, generator, style), control + moved)
    coarse = torch.rand(count, generator=generator) < style.low_resolution
    centre, half = _box(_trace(control))
    fine = _uniform(generator, *style.half_size, count), _uniform(generator, *style.pen, count)
    rough = _uniform(generator, *style.coarse_half_size, count), _uniform(generator, *style.coarse_pen, count)
    target = torch.where(coarse, rough[0], fine[0])[:, None, None, None] * unit
    control = (control - centre) * (target / half.amax(dim=-1, keepdim=True).clamp_min(0.05))
    shift = torch.randn((count, 1, 1, 2), generator=generator) * (style.shift * unit)
    control = control + shift + (size - 1) / 2
    pen = torch.where(coarse, rough[1], fine[1]) * unit
    blur = _uniform(generator, *style.blur, count) * unit
    ink = render(control, pen, blur, size)
    return _coarsen(ink, coarse, generator) * 2 - 1


def draw_images(count: int, generator: torch.Generator, style: StrokeStyle = DEFAULT_STYLE, size: int = 32) -> Tensor:
    """`count` samples of as many different characters: float32 [count, 1, size, size] in [-1, 1]."""
    return draw_samples(draw_characters(count, generator), 1, generator, style, size)


def _affine(count: int, generator: torch.Generator, style: StrokeStyle) -> Tensor:
    """Random maps [B, 2, 2]: scale, then shear, then rotation."""
    normal = torch.randn((count, 4), generator=generator)
    angle = (normal[:, 0] * style.rotation).clamp(-math.pi / 4, math.pi / 4)
    shear = (normal[:, 1] * style.shear).clamp(-0.8, 0.8)
    wide, tall = torch.exp(normal[:, 2] * style.log_scale), torch.exp(normal[:, 3] * style.log_scale)
    cos, sin = torch.cos(angle), torch.sin(angle)
    first = torch.stack([cos * wide, (cos * shear - sin) * tall], dim=1)
    second = torch.stack([sin * wide, (sin * shear + cos) * tall], dim=1)
    return torch.stack([first, second], dim=1)


def render(control: Tensor, pen: Tensor, blur: Tensor, size: int = 32) -> Tensor:
    """Draw strokes as antialiased distance fields.

    Args:
        control: control points [B, S, 4, 2] in pixels, (x, y), pixel centres at whole numbers.
        pen: radius of the pen in pixels [B].
        blur: width of the soft edge in pixels [B].
        size: side of the image in pixels.

    Returns:
        Ink float32 [B, 1, size, size] in [0, 1].
    """
    points = _trace(control)
    start, step = points[:, :, :-1].flatten(1, 2), (points[:, :, 1:] - points[:, :, :-1]).flatten(1, 2)
    length = step.square().sum(-1).clamp_min(1e-6)
    grid = torch.arange(size, dtype=torch.float32)
    away = grid - start[..., None]  # [B, P, 2, size]: offsets along x and along y
    along = away * (step / length[..., None])[..., None]
    nearest = torch.full((control.shape[0], size, size), float("inf"))
    place, dx, dy = torch.empty_like(nearest), torch.empty_like(nearest), torch.empty_like(nearest)
    # One segment at a time keeps the buffers in the cache: several times faster than one big tensor.
    for p in range(start.shape[1]):
        torch.add(along[:, p, 0, None, :], along[:, p, 1, :, None], out=place)
        place.clamp_(0.0, 1.0)
        torch.addcmul(away[:, p, 0, None, :], place, step[:, p, 0, None, None], value=-1, out=dx)
        torch.addcmul(away[:, p, 1, :, None], place, step[:, p, 1, None, None], value=-1, out=dy)
        dx.square_().addcmul_(dy, dy)
        torch.minimum(nearest, dx, out=nearest)
    edge = (pen[:, None, None] - nearest.sqrt_()) / blur[:, None, None] + 0.5
    return edge.clamp_(0.0, 1.0)[:, None]


def _coarsen(ink: Tensor, chosen: Tensor, generator: torch.Generator) -> Tensor:
    """Average the chosen images [B, 1, H, H] down to a low resolution and enlarge them again."""
    size = ink.shape[-1]
    kind = torch.randint(0, 4, (ink.shape[0],), generator=generator)
    brightness = _uniform(generator, 0.85, 1.0, ink.shape[0], 1, 1, 1)
    out = ink.clone()
    for index, fraction in enumerate((0.25, 0.25, 0.25, 0.375)):
        rows = (chosen & (kind == index)).nonzero()[:, 0]
        if len(rows):
            small = F.adaptive_avg_pool2d(ink[rows], max(int(size * fraction), 4))
            # Scanners of low resolution stretch the contrast; without this, thin pens would all but vanish.
            small = small * (brightness[rows] / small.amax(dim=(1, 2, 3), keepdim=True).clamp_min(0.05))
            out[rows] = F.interpolate(small, size=(size, size), mode="bilinear", align_corners=False)
    return out
