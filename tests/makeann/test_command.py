"""The command as it is installed: what it prints, and its exit status."""

import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

from tests.waiting import wait_for

COMMAND = Path(sys.executable).parent / "rtpproxy-makeann"
DEADLINE_S = 120


@pytest.fixture
def directory(tmp_path):
    soundfile.write(tmp_path / "hold.wav", np.zeros(8100), 8000)
    return tmp_path


def run(directory, *arguments, **more):
    return subprocess.run(
        [COMMAND, *arguments], cwd=directory, capture_output=True, text=True, check=False, timeout=DEADLINE_S, **more
    )


def without(module, directory, *arguments):
    """Run it as if a module were not installed."""
    code = f"import sys; sys.modules[{module!r}] = None; from rtpproxy.makeann.command import main; main()"
    return subprocess.run(
        [sys.executable, "-c", code, *arguments], cwd=directory, capture_output=True, text=True, check=False
    )


def parts(directory):
    return directory.glob(".*.part")


def test_it_says_what_it_made(directory):
    done = run(directory, "hold.wav", "music")
    lines = done.stdout.splitlines()
    assert (done.returncode, lines[:4]) == (
        0,
        ["music.0: PCMU, 1.02 s", "music.8: PCMA, 1.02 s", "music.9: G.722, 1.02 s", "music.3: GSM, 1.02 s"],
    )
    if lines[4:]:
        assert (lines[4:], done.stderr) == (["music.18: G.729, 1.02 s"], "")
    else:
        assert done.stderr.startswith("rtpproxy-makeann: music.18 (G.729) is not made: the library libbcg729.so.0 is")
    assert {path.name for path in directory.iterdir()} == {"hold.wav", *(line.split(":")[0] for line in lines)}


def test_without_a_stem_the_name_of_the_file_is_taken(directory):
    assert run(directory, "hold.wav").stdout.startswith("hold.wav.0: PCMU")


def test_it_says_what_it_did_not_make(directory):
    (directory / "music.9").write_bytes(b"old")
    done = without("G722", directory, "hold.wav", "music")
    told = [line for line in done.stderr.splitlines() if "G.722" in line]
    assert done.returncode == 0
    assert told == [
        "rtpproxy-makeann: music.9 (G.722) is not made: the module G722 is missing: "
        f"{sys.executable} -m pip install G722; a file of this name from before is still there"
    ]
    assert "G.722" not in done.stdout
    assert (directory / "music.9").read_bytes() == b"old"


@pytest.mark.parametrize("module", ["soundfile", "soxr"])
def test_a_module_without_which_nothing_can_be_made(directory, module):
    done = without(module, directory, "hold.wav", "music")
    install = f"{sys.executable} -m pip install soundfile soxr G722"
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == f"rtpproxy-makeann: the module {module} is missing: {install}\n"
    assert without(module, directory, "--help").stdout.startswith("Usage: ")


def test_a_length(directory):
    assert "2.50 s" in run(directory, "-l", "20000", "-L", "hold.wav", "music").stdout
    assert "0.50 s" in run(directory, "-l", "4000", "hold.wav", "music").stdout


def test_a_file_of_samples_alone(directory):
    (directory / "samples").write_bytes(bytes(1600))
    assert "say --raw" in run(directory, "samples", "music").stderr
    assert "music.0: PCMU, 0.10 s\n" in run(directory, "--raw", "samples", "music").stdout


def test_a_warning(directory):
    (directory / "a.raw").write_bytes(bytes(1601))
    done = run(directory, "a.raw", "music")
    assert done.returncode == 0
    assert "rtpproxy-makeann: warning: a.raw: its last byte, half a sample, is left out\n" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "Missing argument 'INFILE'."),
        (["a", "b", "c"], "Got unexpected extra argument (c)"),
        (["-x", "hold.wav"], "No such option"),
        (["-l", "x", "hold.wav"], "Invalid value for '-l': 'x' is not a valid integer"),
        (["-l", "0", "hold.wav"], "Invalid value for '-l': 0 is not in the range"),
        (["-l", "9" * 5000, "hold.wav"], "Invalid value for '-l'"),
        (["-L", "hold.wav"], "-L repeats up to the length of -l, which is missing (see rtpproxy-makeann --help)"),
        (["hold.wav", "music/"], "'music/' is a directory: OUTSTEM is how the names of the files begin"),
        (["hold.wav", ""], "'' is a directory"),
        (["nothing.wav"], "nothing.wav: cannot be read: No such file or directory\n"),
        (["hold.wav", "nowhere/music"], "cannot write to nowhere: No such file or directory\n"),
        (["a\nb"], "a\\nb: cannot be read: No such file or directory\n"),
        ([b"\xff"], "\\udcff: cannot be read: No such file or directory\n"),
    ],
)
def test_each_error_is_one_line_and_exit_status_1(directory, arguments, message):
    done = run(directory, *arguments)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith(f"rtpproxy-makeann: {message}")
    assert done.stderr.count("\n") == 1
    assert [path.name for path in directory.iterdir()] == ["hold.wav"]


def test_a_disk_that_is_full_leaves_no_half(directory):
    """Here it is the limit of a file's size, 102,400 bytes, that is reached, after 12.8 s."""
    (directory / "music.0").write_bytes(b"old")
    command = ["sh", "-c", 'ulimit -f 200; exec "$0" "$@"', COMMAND, "-l", "160000", "-L", "hold.wav", "music"]
    done = subprocess.run(command, cwd=directory, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (
        1,
        "",
        "rtpproxy-makeann: cannot write to .: File too large\n",
    )
    assert {path.name for path in directory.iterdir()} == {"hold.wav", "music.0"}
    assert (directory / "music.0").read_bytes() == b"old"


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_one_that_is_ended_leaves_no_half(directory, number, status):
    day = str(24 * 3600 * 8000)
    not_ignored = [
        "env",
        "--default-signal=INT",
    ]  # as a shell without a terminal has it for what runs in the background
    with subprocess.Popen([*not_ignored, COMMAND, "-l", day, "-L", "hold.wav", "music"], cwd=directory) as running:
        try:
            wait_for(lambda: any(path.stat().st_size for path in parts(directory)), DEADLINE_S, "what is half written")
            running.send_signal(number)
            assert running.wait(DEADLINE_S) == status
        finally:
            running.kill()
    assert [path.name for path in directory.iterdir()] == ["hold.wav"]


@pytest.mark.skipif(shutil.which("sox") is None, reason="needs sox")
def test_a_wav_file_by_sox_out_of_a_pipe(directory):
    """Its header says that it is as long as one can be, because sox did not know better."""
    subprocess.run(
        "sox -n -r 48000 -c 2 -t wav - synth 1 sine 440 | cat > piped.wav", shell=True, cwd=directory, check=True
    )
    done = run(directory, "piped.wav", "music")
    assert "music.0: PCMU, 1.00 s\n" in done.stdout
    assert "warning: piped.wav: it is shorter than its header says" in done.stderr
