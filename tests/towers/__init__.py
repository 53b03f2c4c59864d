"""The tower matrix: every family of towers that the libraries build here, taken through every verb.

`python -m tests.towers` writes docs/reference/models.md; see `__main__`.
"""
