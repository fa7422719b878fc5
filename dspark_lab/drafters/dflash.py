"""DFlash: the block-diffusion backbone alone; every slot is drawn without knowing what the others drew (z-lab).

Two conventions are about. DeepSpec's baseline predicts from the anchor's own slot, as DSpark does. z-lab's own
checkpoints spend that slot: an anchor and 15 masks give 15 drafts, read at the masks, and embedding and head are the
target's.
"""

from dspark_lab.drafters.backbone import DEEPSPEC_ARCHITECTURES, BlockDrafter
from dspark_lab.drafters.protocol import Draft


class DFlash(BlockDrafter):
    """DFlash in DeepSpec's convention: block_size slots, block_size drafts."""

    mode = "dflash"

    def __init__(self, config, target, **own):
        super().__init__(config, target, **own)
        self.draft_length = config.block_size - self.first_slot

    @staticmethod
    def reads(config):
        """Whether a checkpoint with this DrafterConfig is one of these."""
        return config.architecture in DEEPSPEC_ARCHITECTURES and config.markov_rank == 0

    def propose(self, anchor, length, cache, sampling, key):
        """One pass, and one independent draw a slot."""
        states = self.draft_states(anchor, cache)[0, self.first_slot :][:length]
        return Draft(*self.read(anchor, states, self.base_logits(states), sampling, key))

    def read(self, anchor, states, base_logits, sampling, key):
        """The fields of a Draft, from the slots' ``base_logits`` (γ, vocab) alone; rows as DSpark's."""
        return sampling.choose(base_logits, key)


class DFlash16(DFlash):
    """DFlash in z-lab's convention: the anchor's slot predicts nothing, the masks predict themselves."""

    mode = "dflash16"
    first_slot = 1

    @staticmethod
    def reads(config):
        """Whether a checkpoint with this DrafterConfig is one of these."""
        return config.architecture == "DFlashDraftModel"
