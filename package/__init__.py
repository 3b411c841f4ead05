"""A stand-in for Qyvo's contacts API, with a pytest fixture named `qyvo`.

The modules beside this one are the service. They import each other by their plain names, and only
in the process of the command `qyvo-standin`; what users import is `pytest_plugin`.
"""
