"""pytest over the notebooks takes the teacher's versions; what nbgrader makes of them beside these is meant to fail."""

collect_ignore = ["release", "submitted", "autograded", "feedback", "source_with_tests"]
