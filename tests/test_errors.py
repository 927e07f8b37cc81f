import argparse
import subprocess
import sys

import pytest

from lps.errors import UserError, at_least, command_line, suggest


def test_suggest_names_the_nearest():
    message = suggest("cube-singel-play", ["cube-single-play", "scene-play"], "task")
    assert message.startswith("unknown task 'cube-singel-play'; did you mean 'cube-single-play'?")


def test_suggest_knows_a_part_of_a_name():
    message = suggest("ring", ["cube-single-play-singletask-task1-v0", "ring-bandit-v0"], "task")
    assert "did you mean 'ring-bandit-v0'?" in message


def test_suggest_lists_all_when_nothing_is_near():
    assert suggest("zzz", ["lps", "dsrl"], "agent") == "unknown agent 'zzz'; known: lps, dsrl"


def test_suggest_stays_short_with_many_names():
    names = [f"task-number-{i}" for i in range(1000)]
    assert len(suggest("task-number-7x", names, "task")) < 200
    assert len(suggest("?", names, "task")) < 1000


def test_suggest_says_something_else_than_many_names():
    names = [f"task-number-{i}" for i in range(1000)]
    assert suggest("?", names, "task", "see the list") == "unknown task '?'; see the list"
    assert "see" not in suggest("task-number-7x", names, "task", "see the list")


@pytest.mark.parametrize("least, text, value", [(1, "1", 1), (0, "12", 12), (0.0, "0", 0.0), (0.0, "1e3", 1000.0)])
def test_at_least_takes(least, text, value):
    found = at_least(least)(text)
    assert found == value and type(found) is type(least)


@pytest.mark.parametrize("least, text", [(1, "0"), (0, "-1"), (0, "1.0"), (0, "x"), (0.0, "nan"), (0.0, "-0.1")])
def test_at_least_refuses(least, text):
    with pytest.raises(argparse.ArgumentTypeError, match=f"number of at least {least:g}, not '{text}'"):
        at_least(least)(text)


@pytest.mark.parametrize("returned, code", [(None, 0), (0, 0), (1, 1)])
def test_guarded_passes_the_exit_code(returned, code):
    assert command_line(lambda: returned)() == code


def test_guarded_shows_what_the_user_can_put_right(capsys):
    @command_line
    def main(name: str):
        raise UserError(f"no file {name}")

    assert main("a.npz") == 2
    assert capsys.readouterr() == ("", "error: no file a.npz\n")


def test_guarded_turns_an_interrupt_into_one_line(capsys):
    def interrupted():
        raise KeyboardInterrupt

    assert command_line(interrupted)() == 130
    assert capsys.readouterr().err == "interrupted\n"


def test_guarded_lets_bugs_through():
    with pytest.raises(ZeroDivisionError):
        command_line(lambda: 1 // 0)()


@pytest.mark.parametrize("lines", [2, 100_000])
def test_a_reader_who_has_seen_enough_is_no_error(lines):
    code = f"from lps.errors import command_line; raise SystemExit(command_line(lambda: print('line\\n' * {lines}))())"
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    process.stdout.close()
    assert process.stderr.read() == "" and process.wait() == 141


def test_a_pipe_that_breaks_elsewhere_is_not_hidden():
    def main():
        raise BrokenPipeError("of a server")

    with pytest.raises(BrokenPipeError):
        command_line(main)()
