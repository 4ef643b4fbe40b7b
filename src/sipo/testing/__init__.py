"""What a plug-in is held to: suites for pytest, to be inherited by the tests of whoever writes one."""
