"""Widgets to play with, from Rounds, distributions and curves alone; each stands beside a figure of the same data."""

from dspark_lab.widgets.accept import AcceptRule
from dspark_lab.widgets.explore import CostExplorer
from dspark_lab.widgets.race import Lanes, Race
from dspark_lab.widgets.ribbon import Ribbon

__all__ = ["AcceptRule", "CostExplorer", "Lanes", "Race", "Ribbon"]
