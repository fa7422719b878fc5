"""The drafters. A further one is a file beside these and a line in ``DRAFTERS``."""

from dspark_lab.drafters.dflash import DFlash, DFlash16
from dspark_lab.drafters.dspark import DSpark
from dspark_lab.drafters.eagle3 import Eagle3
from dspark_lab.drafters.lookup import Lookup
from dspark_lab.drafters.protocol import Draft, Drafter, NoDrafter

DRAFTERS = (DSpark, DFlash, DFlash16, Eagle3)  # those with weights; each says which checkpoints it reads

__all__ = ["DRAFTERS", "DFlash", "DFlash16", "DSpark", "Draft", "Drafter", "Eagle3", "Lookup", "NoDrafter"]
