"""What nbgrader is told when it runs in this folder."""

c = get_config()  # noqa: F821  (nbgrader puts it there)
c.CourseDirectory.course_id = "dspark-lab"
c.ClearSolutions.code_stub = {"python": "raise NotImplementedError  # your lines here"}
c.Execute.timeout = 300  # seconds for a cell, when submissions are graded
