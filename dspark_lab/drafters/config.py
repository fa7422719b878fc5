"""A drafter's config.json, in DeepSpec's or z-lab's format, read into this library's names and checked."""

from dataclasses import dataclass

from dspark_lab.drafters.markov import HEADS


@dataclass(frozen=True)
class DrafterConfig:
    """What a drafter's architecture needs of its config.json.

    ``taps``: target layers, counted from 0, whose outputs feed the drafter (-1: the embedding). ``softcap``: logits are
    bent into (-softcap, softcap) before any Markov bias. ``gemma``: Gemma-4's layers rather than Qwen3's.
    ``confidence_temperatures``: one divisor a position for the confidence logits, or (); published checkpoints may have
    them. ``confidence_temperatures_greedy``: this library's own key, the divisors at temperature 0, or ().
    """

    architecture: str
    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    rms_norm_eps: float
    max_position_embeddings: int
    rope_theta: float
    rope_parameters: dict
    num_target_layers: int
    taps: tuple[int, ...]
    block_size: int
    mask_token_id: int
    markov_rank: int
    markov_head_type: str
    confidence_head: bool
    confidence_temperatures: tuple[float, ...]
    confidence_temperatures_greedy: tuple[float, ...]
    softcap: float | None
    gemma: bool

    @classmethod
    def from_json(cls, raw):
        """Read ``raw``, a parsed config.json. Raises ValueError that names what is missing or makes no sense."""
        architecture = (raw.get("architectures") or ["?"])[0]
        gemma = architecture.startswith("Gemma4")
        dflash = raw.get("dflash_config") or {}
        both = {**raw, **dflash}
        needed = ["vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads"]
        needed += ["num_key_value_heads", "rms_norm_eps", "num_target_layers", "target_layer_ids"]
        needed += [] if "Eagle3" in architecture else ["block_size", "mask_token_id"]
        if missing := [name for name in needed if both.get(name) is None]:
            raise ValueError(f"the drafter's config.json lacks {', '.join(missing)}; is it a drafter's?")
        rope = raw.get("rope_parameters") or {}
        if gemma:
            rope = rope.get("full_attention", rope)
        return cls(
            architecture=architecture,
            vocab_size=raw["vocab_size"],
            hidden_size=raw["hidden_size"],
            intermediate_size=raw["intermediate_size"],
            num_layers=raw["num_hidden_layers"],
            num_heads=raw["num_attention_heads"],
            num_kv_heads=(gemma and raw.get("num_global_key_value_heads")) or raw["num_key_value_heads"],
            head_dim=(gemma and raw.get("global_head_dim"))
            or raw.get("head_dim")
            or raw["hidden_size"] // raw["num_attention_heads"],
            rms_norm_eps=raw["rms_norm_eps"],
            max_position_embeddings=raw.get("max_position_embeddings", 4096),
            rope_theta=rope.get("rope_theta") or raw.get("rope_theta") or 10000.0,
            rope_parameters=rope or raw.get("rope_scaling") or {},
            num_target_layers=raw["num_target_layers"],
            taps=tuple(both["target_layer_ids"]),
            block_size=raw.get("block_size") or raw.get("ttt_length", 7),
            mask_token_id=both.get("mask_token_id") or 0,
            markov_rank=raw.get("markov_rank") or 0,
            markov_head_type=raw.get("markov_head_type", "vanilla"),
            confidence_head=bool(raw.get("enable_confidence_head")),
            confidence_temperatures=tuple(raw.get("confidence_temperatures") or ()),
            confidence_temperatures_greedy=tuple(raw.get("confidence_temperatures_greedy") or ()),
            softcap=raw.get("final_logit_softcapping"),
            gemma=gemma,
        )

    def check(self, target):
        """Raise ValueError unless a drafter of this shape can draft for ``target``."""
        for what, mine, theirs in [
            ("vocabulary", self.vocab_size, target.vocab_size),
            ("hidden size", self.hidden_size, target.hidden_size),
            ("number of target layers", self.num_target_layers, target.num_layers),
        ]:
            if mine != theirs:
                raise ValueError(
                    f"the drafter was made for a target with {what} {mine}, this target has {theirs}; "
                    "give the drafter its own target, or a drafter trained for this one"
                )
        if bad := [i for i in self.taps if not -1 <= i < target.num_layers - 1]:
            raise ValueError(
                f"the drafter taps target layers {bad}; allowed are -1 (the embedding) to {target.num_layers - 2} "
                f"(the last layer of {target.num_layers} is not tapped)"
            )
        if not 0 <= self.mask_token_id < self.vocab_size:
            raise ValueError(f"mask_token_id {self.mask_token_id} is outside the vocabulary of {self.vocab_size}")
        if self.markov_rank and self.markov_head_type not in HEADS:
            raise ValueError(f"no Markov head here is of type {self.markov_head_type!r}; known are {', '.join(HEADS)}")
        for name in ("confidence_temperatures", "confidence_temperatures_greedy"):
            check_temperatures(name, getattr(self, name), self.block_size)

    def temperatures(self, greedy):
        """The divisors for the confidence logits, or (): the greedy list if there is one and drafts are ``greedy``."""
        return (greedy and self.confidence_temperatures_greedy) or self.confidence_temperatures


def check_temperatures(name, temperatures, positions):
    """Raise ValueError unless ``temperatures`` is empty or holds a positive number for each of ``positions``."""
    if temperatures and len(temperatures) != positions:
        raise ValueError(f"{name} has {len(temperatures)} entries, but the block has {positions} positions")
    if bad := [t for t in temperatures if not (isinstance(t, int | float) and 0 < t < float("inf"))]:
        raise ValueError(f"{name} holds {bad[0]!r}; a temperature is a finite positive number")
