"""TecoGAN (Chu et al., SIGGRAPH 2020): FRVSR's generator, trained with a spatio-temporal discriminator."""

from __future__ import annotations

from typing import ClassVar

from superlower.frontends.zoo.frvsr import FrameRecurrent


class TecoGan(FrameRecurrent):
    """`superlower export tecogan`. The discriminator is not deployed."""

    name: ClassVar[str] = "tecogan"
    title: ClassVar[str] = "TecoGAN"
    paper: ClassVar[str] = "https://arxiv.org/abs/1811.09393"
