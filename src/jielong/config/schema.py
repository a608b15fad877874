"""The schema of a recipe: which parts, which data, how long. Unknown keys and impossible pairings are refused."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Annotated

from pydantic import Field, SerializeAsAny, field_validator, model_validator

from jielong.config.adapter import AdapterSettings
from jielong.config.data import DataSection, DataSettings, settings_kind
from jielong.config.ending import StopHeadSettings
from jielong.config.registry import Config, OfFamily, Part, nearest, parts_of, plain
from jielong.config.sampling import SamplingConfig
from jielong.config.yaml_text import write_yaml
from jielong.core.medium import axes_text
from jielong.training.settings import Balance, TrainSettings

if TYPE_CHECKING:
    from jielong.backbones.base import BackboneSettings
    from jielong.conditions.base import ConditionSettings
    from jielong.heads.base import HeadSettings
    from jielong.losses.base import LossSettings
    from jielong.orders.base import OrderSettings
    from jielong.tokenizers.base import TokenizerSettings
else:  # which import torch: reading a recipe's keys does without
    BackboneSettings = TokenizerSettings = ConditionSettings = HeadSettings = LossSettings = OrderSettings = Part


class Trained(Config):
    """A trained tokenizer: the name of a shipped model, a checkpoint folder, or an address of the Hub (``hf://user/name``).

    Attributes:
        checkpoint: Which.
        num_codebooks: Use only the first codebooks of a residual tokenizer; all of them by default.
    """

    checkpoint: str
    num_codebooks: int | None = Field(default=None, ge=1)


Tokenizer = Annotated[SerializeAsAny[TokenizerSettings] | Trained, OfFamily("tokenizer", instead=Trained)]
Losses = Annotated[tuple[SerializeAsAny[LossSettings], ...], OfFamily("loss", many=True)]
Condition = Annotated[SerializeAsAny[ConditionSettings], OfFamily("condition")]
Order = Annotated[SerializeAsAny[OrderSettings], OfFamily("order")]
Backbone = Annotated[SerializeAsAny[BackboneSettings], OfFamily("backbone")]
Head = Annotated[SerializeAsAny[HeadSettings], OfFamily("head")]


Data = Annotated[SerializeAsAny[DataSettings], DataSection()]


class Recipe(Config):
    """Five parts, data, and a budget. Without order, backbone and head it trains the tokenizer itself.

    Attributes:
        data: The training data, and how they are read.
        tokenizer: What a token is: a tokenizer to train, or the checkpoint of a trained one.
        stages: Trained generators of a cascade that come before this one, checkpoints by name; a condition reads their output.
        losses: Losses of a tokenizer's training.
        balancer: Balances the gradients of a tokenizer's losses (EnCodec, arXiv 2210.13438); off by default.
        condition: What samples are conditioned on; nothing by default.
        order: Which tokens are predicted when.
        backbone: How known tokens become hidden vectors.
        head: The distribution of a token given its hidden vector.
        stop_head: Learns where items end, for which no length is given; off by default.
        sampling: Sampling parameters, which a call or the command line may change.
        adapter: Trains an adapter of the model ``train.init_from`` in place of all weights; off by default.
        train: Budget, optimizer and schedule.
    """

    data: Data = Field(default_factory=lambda: DataSection().read({}))
    tokenizer: Tokenizer
    stages: dict[str, str] = Field(default_factory=dict)
    losses: Losses = ()
    balancer: Balance | None = None
    condition: Condition | None = None
    order: Order | None = None
    backbone: Backbone | None = None
    head: Head | None = None
    stop_head: StopHeadSettings | None = None
    sampling: SamplingConfig = SamplingConfig()
    adapter: AdapterSettings | None = None
    train: TrainSettings

    @property
    def trains_generator(self) -> bool:
        """Whether it trains a generator (and not a tokenizer)."""
        return self.order is not None

    @property
    def adapts(self) -> bool:
        """Whether it trains an adapter of ``train.init_from``, whose own weights stay as they are."""
        return self.adapter is not None or self.train.lora is not None

    @property
    def requires(self) -> dict[str, str]:
        """Checkpoints of the trained stages that this one is built on, names or folders, by the stage's name."""
        return self.stages | ({"tokenizer": self.tokenizer.checkpoint} if isinstance(self.tokenizer, Trained) else self.tokenizer.requires)

    @field_validator("stages", mode="before")
    @classmethod
    def _without_removed(cls, stages: object) -> object:
        """``null`` removes a stage."""
        return {name: stage for name, stage in stages.items() if stage is not None} if isinstance(stages, Mapping) else stages

    @model_validator(mode="after")
    def _pairings(self) -> Recipe:
        chain = {"order": self.order, "backbone": self.backbone, "head": self.head}
        missing = [name for name, part in chain.items() if part is None]
        if missing and len(missing) < len(chain):
            raise ValueError(f"a generator needs order, backbone and head together; missing: {', '.join(missing)}")
        self._check_chain()
        self._check_stages()
        if self.adapter is not None:
            self._check_adapter()
        elif self.train.lora is not None and not self.trains_generator:
            raise ValueError("train.lora updates a generator, and this recipe trains a tokenizer: remove it, or take train.freeze")
        if self.trains_generator:
            if self.losses or self.balancer is not None:
                key = "losses" if self.losses else "balancer"
                raise ValueError(f"`{key}` belong to a tokenizer's recipe; a generator's loss is its head's: remove `{key}`")
            options = [name for name in ("detail_steps", "lazy") if getattr(self.sampling, name) is not None]
            if options and self.order is not None and not self.order.random_positions:
                raise ValueError(
                    f"sampling.{options[0]} needs an order that chooses positions before it draws: order: {{masked: {{choose: random}}}}"
                )
            self._check_order_and_states()
            if self.sampling.image_guidance != 1 and not self._reads_pairs():
                raise ValueError(
                    "sampling.image_guidance is the scale of a source picture beside that of a text, and this recipe's condition is no "
                    "composite with a picture: leave it out, or take condition: {composite: {parts: {text: ..., picture: ...}}}"
                )
            if not isinstance(self.tokenizer, Trained) and not self.tokenizer.fixed:
                raise ValueError(
                    f"a generator needs a trained tokenizer, but {self.tokenizer.name!r} has yet to learn: train it with a recipe "
                    "of its own (such as vqgan) and write tokenizer: {checkpoint: NAME-OR-FOLDER}"
                )
        else:
            if self.sampling != SamplingConfig():
                raise ValueError("a tokenizer draws nothing: remove `sampling`, or add order, backbone and head for a generator")
            if self.stop_head is not None:
                raise ValueError("a tokenizer has no end to learn: remove `stop_head`, or add order, backbone and head for a generator")
            if self.condition is not None:
                raise ValueError("a tokenizer takes no condition: remove `condition`, or add order, backbone and head for a generator")
            if isinstance(self.tokenizer, Trained):
                raise ValueError("this tokenizer is trained already: add order, backbone and head, or describe a tokenizer to train")
            if self.tokenizer.fixed:
                name = self.tokenizer.name
                raise ValueError(f"{name} have nothing to learn: choose a tokenizer such as vq, or add order, backbone and head")
            if self.tokenizer.compares_items and self.train.micro_batch not in (None, self.train.batch):
                raise ValueError(
                    f"{self.tokenizer.name} compares the items of a whole batch: leave out train.micro_batch, or lower train.batch"
                )
            losses = {loss.name for loss in self.losses}
            self._check_axes(self.tokenizer)
            predicts = self.tokenizer.likelihood_loss
            if "logit_laplace" in losses and predicts != "logit_laplace":
                raise ValueError("the loss logit_laplace needs a tokenizer that predicts a distribution: {vq: {likelihood: logit_laplace}}")
            if predicts is not None and predicts not in losses:
                raise ValueError(f"this tokenizer predicts a distribution that no loss reads: add losses: {{{predicts}: {{}}}}")
        return self

    def _check_chain(self) -> None:
        """Refuse a condition that the backbone has no room for in the chain, and a start that is no condition."""
        part = self.condition
        if part is not None and part.in_chain and self.backbone is not None and not self.backbone.prefixed:
            raise ValueError(
                f"the condition {part.name} stands in the chain before the tokens, for backbone: {{transformer: {{condition: prefix}}}}, "
                f"not {self.backbone.name!r} as it is set here"
            )
        if part is None and self.backbone is not None and self.backbone.starts_with_condition:
            raise ValueError(
                f"backbone.{self.backbone.name}.start puts the condition at the chain's start, and there is none: add condition, or leave "
                "start out"
            )

    def _reads_pairs(self) -> bool:
        """Whether its condition is a source picture and something else."""
        parts = () if self.condition is None else self.condition.components
        return len(parts) > 1 and any(part.input.paired for part in parts)

    def _check_stages(self) -> None:
        """Refuse names of stages that are taken, that no path can hold, or that nothing defines."""
        for name in self.stages:
            if name in ("tokenizer", "proxy") or not name.isidentifier():
                raise ValueError(f"a stage cannot be called {name!r}: choose a word such as coarse, which is no part of the recipe")
        for part in () if self.condition is None else self.condition.components:
            if part.reads_stage is not None and part.reads_stage not in self.stages:
                right = nearest(part.reads_stage, self.stages) if self.stages else f"add stages: {{{part.reads_stage}: CHECKPOINT}}"
                raise ValueError(f"the condition {part.name} reads the stage {part.reads_stage!r}, which there is not; {right}")

    def _check_adapter(self) -> None:
        """Refuse an adapter of nothing, and one whose condition no caption with a name can supply."""
        if self.train.freeze or self.train.lora is not None:
            key, right = ("freeze", "remove it") if self.train.freeze else ("lora", "write it into `adapter`")
            raise ValueError(f"adapter: all weights of its model stay as they are, so train.{key} has nothing to add: {right}")
        if not self.trains_generator:
            raise ValueError("adapter: it updates a generator, and this recipe trains a tokenizer: remove `adapter`")
        if self.train.init_from is None:
            raise ValueError("adapter: it updates a trained model: set train.init_from to that model's name or folder")
        kind = settings_kind(self.data)
        if kind.name != "image":
            raise ValueError(f"adapter: it learns a subject of pictures, and this recipe reads {kind.noun[1]}: remove `adapter`")
        inputs = () if self.condition is None else self.condition.inputs
        if any(each.name != "text" for each in inputs):
            takes = " and ".join(each.name for each in inputs)
            raise ValueError(f"adapter: pictures of a subject come with captions alone, and this model takes {takes}: choose one of texts")
        if self.adapter is not None and self.adapter.textual_inversion is not None and not inputs:
            raise ValueError("adapter.textual_inversion: this model reads no texts, so it has no words to add one to: take lora")

    def _check_order_and_states(self) -> None:
        """Refuse sampling parameters that the order has not, and networks that attend to states where the condition is one vector."""
        if self.order is not None:
            try:
                self.order.build().check_sampling(self.sampling)
            except ValueError as error:
                raise ValueError(f"sampling.{error}") from None
            if self.head is not None:
                self.order.check_head(self.head)
        if self.head is None or self.condition is None:
            return
        if self.condition.gives_references and not any(getattr(part, "reads_references", False) for part in _parts_inside(self.head)):
            raise ValueError(
                "condition.picture.into: references puts the picture's tokens into the sequence of a network that reads them, and this "
                "head has none: take head: {flow_matching: {network: flux2}}, or into: positions"
            )
        if self.condition.token_states:
            return
        for part in _parts_inside(self.head):
            if reads := getattr(part, "reads_states", ""):
                raise ValueError(
                    f"head: the network {part.name} attends to the states of a condition ({reads}), and the condition "
                    f"{self.condition.name} is one vector an item: take the network dit or unet with condition: pooled, or a condition "
                    "with states of tokens, such as {text: {encoder: minilm}}"
                )

    def _check_axes(self, tokenizer: TokenizerSettings) -> None:
        """Refuse an autoencoder or a loss for media of other axes, sizes that do not divide, and a tokenizer without a loss on its
        reconstruction."""
        kind = settings_kind(self.data)
        axes = kind.axes
        tokenizer.check_axes(axes)
        tokenizer.check_size(kind.medium(self.data, kind.native["channels"]).size)
        for loss in self.losses:
            if not loss.compares(axes):
                fitting = [name for name, part in _losses().items() if part.axes is not None and part.compares(axes)]
                choices = f": choose among {', '.join(fitting)}" if fitting else ""
                raise ValueError(f"the loss {loss.name} reads {axes_text(loss.axes or ())}, but the data have {axes_text(axes)}{choices}")
        if not any(loss.reconstructs for loss in self.losses):
            fitting = [name for name, part in _losses().items() if part.reconstructs and part.compares(axes)]
            raise ValueError(f"a tokenizer needs a loss on its reconstruction ({', '.join(fitting)}): losses: {{regression: {{kind: l2}}}}")
        if self.balancer is not None and any(loss.name == "logit_laplace" for loss in self.losses):
            raise ValueError("a balancer weighs gradients at the reconstruction, which the loss logit_laplace does not read: remove one")

    def to_yaml(self) -> str:
        """The recipe with every default filled in; ``null`` stands only where it is not the default."""
        data = plain(self)
        data["losses"] = {name: settings for loss in data["losses"] for name, settings in loss.items()}
        for empty in [key for key in ("losses", "stages") if not data[key]]:
            del data[empty]
        return write_yaml(data)


def _parts_inside(settings: Config) -> Iterator[Part]:
    """The parts among the settings and inside them."""
    if isinstance(settings, Part):
        yield settings
    for name in type(settings).model_fields:
        if isinstance(value := getattr(settings, name), Config):
            yield from _parts_inside(value)


def _losses() -> dict[str, type[LossSettings]]:
    """Settings of all known losses by name."""
    from jielong.losses.base import LossSettings

    return {name: part for name, part in parts_of("loss").items() if issubclass(part, LossSettings)}
