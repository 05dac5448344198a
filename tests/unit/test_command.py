"""The command `quartet` as such, whatever it is asked to do."""

import signal
import subprocess
import sys

# Whoever runs these tests may ignore the signal, and the command would inherit that.
PROGRAM = """if True:
    import runpy, signal
    signal.signal(signal.SIGINT, signal.default_int_handler)
    runpy.run_module("quartet", run_name="__main__")
"""


def test_ctrl_c_while_the_command_is_being_loaded_ends_it_without_a_word() -> None:
    words = (sys.executable, "-X", "importtime", "-c", PROGRAM, "doctor")
    with subprocess.Popen(words, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as command:
        assert command.stderr is not None
        loaded = iter(command.stderr.readline, "")
        assert any(line.endswith(" structlog\n") for line in loaded)  # the first of many
        command.send_signal(signal.SIGINT)
        said, more = command.communicate(timeout=60)
    assert (command.returncode, said) == (130, "")
    assert [line for line in more.splitlines() if not line.startswith("import time:")] == []
