"""The policy server: openpi's messages, wrong and hostile requests, many clients, and recordings."""

import contextlib
import math
import queue
import threading
import time
import tracemalloc
import urllib.error
import urllib.request

import msgpack
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from serving import running, served
from small import ACTION_DIM, OBSERVATION_DIM
from test_policy import SEEN, checkpoint_of
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect

from lps.agents import AGENTS
from lps.errors import UserError
from lps.policy import recorder as recording
from lps.policy import server as serving
from lps.policy.client import Client
from lps.policy.file import policy_of
from lps.policy.recorder import Recorder
from lps.policy.server import PolicyServer
from lps.policy.wire import BadMessage, decode, encode

# --- messages ---


def array(data, dtype, shape):
    return msgpack.packb({b"__ndarray__": True, b"data": data, b"dtype": dtype, b"shape": shape})


@pytest.mark.parametrize("dtype", ["bool", "uint8", "int16", "int64", "float16", "float32", "float64", ">f4"])
@pytest.mark.parametrize("shape", [(), (0,), (3,), (2, 0), (2, 3, 4)])
def test_arrays_come_back_as_they_were(dtype, shape):
    sent = np.arange(math.prod(shape)).reshape(shape).astype(dtype)
    found = decode(encode({"a": sent, "b": [sent, {"c": 1.5}], "n": np.float32(2.5)}))
    np.testing.assert_array_equal(found["a"], sent)
    assert found["a"].dtype == sent.dtype and found["a"].shape == shape and found["b"][1] == {"c": 1.5}
    assert found["n"] == 2.5 and found["n"].dtype == np.float32


def test_the_bytes_are_those_of_openpi():
    assert encode({"actions": np.zeros((1, 2), np.float32)}) == msgpack.packb(
        {"actions": {b"__ndarray__": True, b"data": bytes(8), b"dtype": "<f4", b"shape": (1, 2)}}
    )
    assert encode(np.float32(1)) == msgpack.packb({b"__npgeneric__": True, b"data": 1.0, b"dtype": "<f4"})


HOSTILE = [
    *(b"", b"\xc1", b"\x81", b"\x81\xa1\xff\x01", b"\x81\xc0\x01", b"\x81\x81\x01\x01\x01", b"\x01\x01"),
    *(b"\x91" * 100_000, b"\x81\xa1a" * 40_000, b"\xdd\xff\xff\xff\xff", b"\xdf\xff\xff\xff\xff"),
    *(b"\xc6\xff\xff\xff\xffxx", b"\xdb\xff\xff\xff\xffxx", b"\xd4\x05x", b"\xc7\x0c\xff" + b"\xff" * 12),
    array(b"", "<f4", [2**60, 2**60]),
    array(b"", "<f4", [0, 2**60, 2**60]),
    array(b"x" * 8, "|O", [1]),
    array(b"x" * 8, "<c8", [1]),
    array(b"x" * 8, "(2,)f4", [1]),
    array(b"x" * 8, "V99999999999", [1]),
    array(b"x" * 8, "<f4,<f4", [1]),
    array(b"x" * 7, "<f4", [2]),
    array(b"x" * 8, "<f4", [-2]),
    array(b"x" * 8, "<f4", [2.0]),
    array(b"x" * 8, "<f4", [True, 2]),
    array(b"x" * 8, "<f4", "2"),
    array("x" * 8, "<f4", [2]),
    array(b"", "<f4", [0] * 9),
    array(None, None, None),
    msgpack.packb({b"__ndarray__": True}),
    msgpack.packb({b"__npgeneric__": True, b"data": 2**40, b"dtype": "|u1"}),
    msgpack.packb({b"__npgeneric__": True, b"data": "1", b"dtype": "<f4"}),
    msgpack.packb({b"__npgeneric__": True, b"data": [1] * 200, b"dtype": "<f4"}),
]


@pytest.mark.parametrize("message", HOSTILE, ids=range(len(HOSTILE)))
def test_a_hostile_message_is_one_sentence(message):
    with pytest.raises(BadMessage) as refused:
        decode(message)
    assert len(str(refused.value)) < 500 and "\n" not in str(refused.value)


def test_a_message_costs_memory_in_proportion_to_its_length():
    nested = [0] * 250
    for _ in range(2):
        nested = [nested] * 100
    for message in (*HOSTILE, msgpack.packb(nested)[:200_000], msgpack.packb([[[]] * 200] * 200)):
        tracemalloc.start()
        with contextlib.suppress(BadMessage):
            decode(message)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 100 * len(message) + 100_000


PLAIN = st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats() | st.text(max_size=8) | st.binary()
LIKE_ARRAYS = st.fixed_dictionaries(
    {},
    optional={
        b"__ndarray__": st.just(True),
        b"__npgeneric__": st.just(True),
        b"data": PLAIN,
        b"dtype": st.sampled_from(["<f4", "|u1", "|b1", "<f8", "|O", "<U9", ""]) | PLAIN,
        b"shape": st.lists(st.integers(0, 4) | st.integers(-(2**63), 2**63), max_size=4) | PLAIN,
    },
)
NESTS = st.recursive(
    PLAIN | LIKE_ARRAYS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8) | st.binary(max_size=12), inner),
    max_leaves=8,
)
CUTS = st.none() | st.tuples(st.floats(0, 1), st.binary(max_size=3))


def decodes_or_is_refused(value, cut):
    """Decode a message, perhaps with some bytes replaced; what is decoded can be sent again."""
    message = value if isinstance(value, bytes) else msgpack.packb(value)
    if cut:
        at = int(cut[0] * len(message))
        message = message[:at] + cut[1] + message[at + 2 * len(cut[1]) :]
    with contextlib.suppress(BadMessage):
        found = decode(message)
        with contextlib.suppress(BadMessage):
            encode(found)


@settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck))
@given(NESTS | st.binary(max_size=200), CUTS)
def test_no_message_escapes_the_decoder(value, cut):
    decodes_or_is_refused(value, cut)


@pytest.mark.slow
@settings(max_examples=10_000, deadline=None, suppress_health_check=list(HealthCheck))
@given(NESTS | st.binary(max_size=200), CUTS)
def test_no_message_of_many_escapes_the_decoder(value, cut):
    decodes_or_is_refused(value, cut)


# --- the server ---


@pytest.fixture(scope="module")
def policy():
    return policy_of(checkpoint_of("lps"))


@pytest.fixture(scope="module")
def sampling():
    return policy_of(checkpoint_of("flow_bc"))


@pytest.fixture(scope="module")
def url(policy):
    with served(policy) as url:
        yield url


@contextlib.contextmanager
def raw(url, **options):
    """A connection whose metadata has been read."""
    with connect(url, compression=None, max_size=None, **options) as connection:
        connection.recv()
        yield connection


def refusal(url, **options):
    """The HTTP status with which the server refuses a connection."""
    with pytest.raises(InvalidStatus) as refused, raw(url, **options):
        pass
    return refused.value.response.status_code


@pytest.mark.parametrize("agent", AGENTS)
def test_an_answer_is_the_chunk_of_the_policy(agent):
    policy = policy_of(checkpoint_of(agent))
    noise = np.linspace(-2, 2, policy.noise_dim, dtype=np.float32) if policy.noise_dim else None
    with served(policy) as url, Client(url) as client:
        answer = client.infer({"state": SEEN}, **({} if noise is None else {"noise": noise}))
        about = client.metadata
    expected = policy.act_batch({"state": SEEN[None]}, None if noise is None else noise[None])[0]
    np.testing.assert_array_equal(answer["actions"], expected)
    assert answer["actions"].dtype == np.float32 and answer["actions"].shape == (about["execute"], ACTION_DIM)
    assert all(type(value) is float for value in answer["server_timing"].values())
    assert (about["agent"], about["noise_dim"], about["protocol"]) == (agent, policy.noise_dim, 1)
    assert about["observation"] == {"state": [[OBSERVATION_DIM], "float32"]}


def test_every_array_of_an_answer_has_the_chunk_as_its_first_axis(url, policy):
    with Client(url) as client:
        answer = client.infer({"state": SEEN.astype(np.float64), "prompt": "pick up the cube"}, timestep=7)
        again = client.infer({"state": SEEN}, request_id="seven")
    arrays = [value for value in answer.values() if isinstance(value, np.ndarray)]
    assert arrays and all(value.shape[0] == policy.execute for value in arrays)
    assert answer["timestep"] == 7 and "request_id" not in answer and again["request_id"] == "seven"
    assert again["server_timing"].keys() == {"infer_ms", "queue_ms", "prev_total_ms"}


@pytest.mark.parametrize(
    ("request_", "said"),
    [
        ({}, "no 'state'. It needs 'state' of float32 (7,)"),
        ({"state": SEEN[1:]}, "'state' of float32 (6,). It needs float32 (7,)"),
        ({"state": "north"}, "'state' of type str. It needs an array of float32 (7,)"),
        ({"state": [0.0] * OBSERVATION_DIM}, "'state' of type list"),
        ({"state": {"a": SEEN}}, "'state' of type dict"),
        ({"state": np.float32(1)}, "It needs float32 (7,)"),
        ({"state": SEEN * np.nan}, "NaN or infinity in 'state'"),
        ({"state": SEEN.astype(np.float64) * 1e300}, "NaN or infinity in 'state'"),
        ({"state": SEEN, "timestep": 1.5}, "timestep of type float"),
        ({"state": SEEN, "request_id": "x" * 129}, "Send a whole number or a short text"),
        ({"state": SEEN, "seed": -1}, "Send a whole number from 0 to 2^63 - 1"),
        ({"state": SEEN, "noise": SEEN}, "Leave the noise out"),
        ([SEEN], "the request is a list"),
        (3, "the request is a int"),
    ],
)
@pytest.mark.filterwarnings("ignore:overflow")
def test_a_wrong_request_is_one_sentence_and_the_session_lives_on(url, request_, said):
    with raw(url) as connection:
        connection.send(encode(request_))
        error = connection.recv()
        assert isinstance(error, str) and said in error and "\n" not in error
        connection.send(encode({"state": SEEN}))
        assert decode(connection.recv())["actions"].shape == (2, ACTION_DIM)


def test_hostile_requests_are_refused_and_the_session_lives_on(url):
    with raw(url) as connection:
        for message in [*HOSTILE, "a text", "\x00" * 1000]:
            connection.send(message)
            assert isinstance(connection.recv(timeout=10), str)
        connection.send(encode({"state": SEEN}))
        assert decode(connection.recv())["actions"].shape == (2, ACTION_DIM)


def test_a_request_beyond_the_limit_ends_its_own_session_alone(url):
    with Client(url) as other, raw(url) as connection:
        with pytest.raises(ConnectionClosed) as closed:
            connection.send(bytes(2 * other.metadata["largest_request"]))
            connection.recv(timeout=10)
        assert closed.value.rcvd.code == 1009
        assert other.infer({"state": SEEN})["actions"].shape == (2, ACTION_DIM)
        with pytest.raises(UserError, match="Send smaller arrays"):
            other.infer({"state": SEEN, "film": np.zeros(10**6)})
        assert other.infer({"state": SEEN})["actions"].shape == (2, ACTION_DIM)


def test_noise_of_a_wrong_form_is_refused(sampling):
    dim = sampling.noise_dim
    with served(sampling) as url, Client(url) as client:
        for noise in (np.zeros(dim + 1), np.zeros(dim, np.int64), "x", [0.0] * dim, np.full(dim, np.inf)):
            with pytest.raises(UserError, match="noise"):
                client.infer({"state": SEEN}, noise=noise)
        assert client.infer({"state": SEEN}, noise=np.zeros(dim))["actions"].shape == (2, ACTION_DIM)


def test_draws_begin_anew_with_a_connection_a_reset_and_a_seed(sampling):
    sampling.reset()
    expected = [sampling.act(SEEN) for _ in range(3)]
    with served(sampling) as url, Client(url) as client:

        def asked(**request):
            return client.infer({"state": SEEN}, **request)["actions"]

        first, second, third = asked(), asked(), asked()
        np.testing.assert_allclose([first, second, third], expected, atol=1e-5)
        np.testing.assert_array_equal(asked(reset=True), first)
        np.testing.assert_array_equal(asked(), second)
        with Client(url) as other:
            np.testing.assert_array_equal(other.infer({"state": SEEN})["actions"], first)
        np.testing.assert_array_equal(asked(), third)
        of_seed = asked(seed=11)
        assert (of_seed != first).any() and (asked() != of_seed).any()
        np.testing.assert_array_equal(asked(seed=11), of_seed)
        with pytest.raises(UserError):
            asked(seed=12, timestep=0.5)
        assert (asked(reset=True) == of_seed).all(), "a refused request changes nothing"


class Gate:
    """Stands in for a policy's `act_batch`: waits until it is opened, and counts rows."""

    def __init__(self, policy, monkeypatch):
        self.rows, self.open, self.entered = [], threading.Event(), threading.Event()
        self.open.set()
        inner = policy.act_batch

        def act_batch(observations, noise):
            self.rows.append(len(observations["state"]))
            self.entered.set()
            self.open.wait(60)
            return inner(observations, noise)

        monkeypatch.setattr(policy, "act_batch", act_batch)


def test_clients_share_a_call_and_each_gets_its_own_actions(policy, monkeypatch):
    states = np.random.default_rng(0).normal(size=(6, OBSERVATION_DIM)).astype(np.float32)
    alone = [policy.act_batch({"state": state[None]}, None)[0] for state in states]
    gate = Gate(policy, monkeypatch)
    with served(policy) as url, contextlib.ExitStack() as stack:
        connections = [stack.enter_context(raw(url)) for _ in states]
        gate.open.clear(), gate.entered.clear()
        for connection, state in zip(connections, states, strict=True):
            connection.send(encode({"state": state}))
        assert gate.entered.wait(60)
        gate.open.set()
        answers = [decode(connection.recv(timeout=60))["actions"] for connection in connections]
    np.testing.assert_array_equal(answers, alone)
    assert max(gate.rows) > 1 and sum(gate.rows) == len(states) + serving.WARM_UP


def test_pings_are_answered_during_inference(policy, monkeypatch):
    gate = Gate(policy, monkeypatch)
    with served(policy) as url, raw(url) as busy, raw(url) as idle:
        gate.open.clear(), gate.entered.clear()
        busy.send(encode({"state": SEEN}))
        assert gate.entered.wait(60)
        assert busy.ping().wait(60) and idle.ping().wait(60)
        gate.open.set()
        assert decode(busy.recv(timeout=60))["actions"].shape == (2, ACTION_DIM)


def test_a_client_that_leaves_during_inference_disturbs_nobody(policy, monkeypatch):
    gate = Gate(policy, monkeypatch)
    with served(policy) as url, raw(url) as patient:
        with raw(url) as leaving:
            gate.open.clear(), gate.entered.clear()
            leaving.send(encode({"state": SEEN}))
            assert gate.entered.wait(60)
        patient.send(encode({"state": SEEN}))
        gate.open.set()
        assert decode(patient.recv(timeout=60))["actions"].shape == (2, ACTION_DIM)


def test_a_policy_that_fails_is_one_sentence_and_the_session_lives_on(policy, monkeypatch, capsys):
    inner, todo = policy.act_batch, iter([])

    def act_batch(observations, noise):
        actions = inner(observations, noise)
        match next(todo, ""):
            case "raise":
                raise RuntimeError("CUDA out of memory")
            case "nan":
                return actions * np.nan
        return actions

    monkeypatch.setattr(policy, "act_batch", act_batch)
    with served(policy) as url, Client(url) as client:
        todo = iter(["raise", "nan"])
        with pytest.raises(UserError, match="the policy failed: RuntimeError"):
            client.infer({"state": SEEN})
        with pytest.raises(UserError, match="NaN or infinity. Stop the robot"):
            client.infer({"state": SEEN})
        assert client.infer({"state": SEEN})["actions"].shape == (2, ACTION_DIM)
    assert "CUDA out of memory" in capsys.readouterr().err


# --- HTTP ---


def status(url, path):
    try:
        with urllib.request.urlopen(url.replace("ws://", "http://") + path, timeout=60) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        return error.code, error.read()


def test_a_server_is_alive_before_it_is_ready(policy, monkeypatch):
    gate = Gate(policy, monkeypatch)
    gate.open.clear()
    ports: queue.Queue[int] = queue.Queue()
    server = PolicyServer(policy)
    with served(policy_of(checkpoint_of("lps"))) as other:  # a port that is free afterwards
        port = int(other.rpartition(":")[2])
    with running(server, port, ports.put):
        url = f"ws://127.0.0.1:{port}"
        assert gate.entered.wait(60)
        for _ in range(600):
            with contextlib.suppress(urllib.error.URLError):
                assert status(url, "/healthz") == (200, b"OK\n")
                break
            time.sleep(0.1)
        assert status(url, "/readyz")[0] == 503 and ports.empty()
        assert refusal(url) == 503
        gate.open.set()
        assert ports.get(timeout=60) == port
        assert status(url, "/readyz") == (200, b"OK\n")


def test_a_token_is_needed_where_one_is_set(policy, monkeypatch):
    monkeypatch.setenv("LPS_TOKEN", "")
    with served(policy, token="a secret") as url:
        assert status(url, "/healthz")[0] == status(url, "/readyz")[0] == 200
        for header in (None, "a secret", "Bearer wrong", "Bearer", "Basic a secret", "Bearer \xe9"):
            headers = None if header is None else {"Authorization": header}
            assert refusal(url, additional_headers=headers) == 401
        for header in ("Api-Key a secret", "Bearer a secret", "bearer a secret"):
            with raw(url, additional_headers={"Authorization": header}):
                pass
        with pytest.raises(UserError, match="token is missing or wrong"):
            Client(url)
        with Client(url, "a secret") as client:
            assert client.infer({"state": SEEN})["actions"].shape == (2, ACTION_DIM)


def test_a_web_page_cannot_connect(url):
    assert refusal(url, origin="https://example.org") == 403


def test_there_is_a_limit_of_clients(policy, monkeypatch):
    monkeypatch.setattr(serving, "MOST_CONNECTIONS", 2)
    with served(policy) as url, raw(url) as first, raw(url):
        assert refusal(url) == 503
        first.close()
        with Client(url) as client:
            assert client.infer({"state": SEEN})["actions"].shape == (2, ACTION_DIM)


def test_a_port_in_use_is_one_sentence(url, policy):
    import asyncio

    with pytest.raises(UserError, match="Choose another --host or --port"):
        asyncio.run(PolicyServer(policy).run("127.0.0.1", int(url.rpartition(":")[2])))


# --- recordings ---


def test_a_recording_is_a_file_for_every_episode(sampling, tmp_path):
    with served(sampling, recorder=Recorder(tmp_path, 10**9)) as url, Client(url) as client:
        answers = [client.infer({"state": SEEN * i}, timestep=5 * i)["actions"] for i in range(3)]
        client.infer({"state": SEEN}, reset=True)
        with pytest.raises(UserError):
            client.infer({"state": SEEN[1:]})
        client.infer({"state": SEEN})
    files = [dict(np.load(path)) for path in tmp_path.iterdir()]
    assert sorted(len(file["actions"]) for file in files) == [2, 3]
    first = max(files, key=lambda file: len(file["actions"]))
    np.testing.assert_array_equal(first["observations/state"], [SEEN * i for i in range(3)])
    np.testing.assert_array_equal(first["chunks"], answers)
    np.testing.assert_array_equal(first["actions"], first["chunks"][:, 0])
    assert first["timesteps"].tolist() == [0, 5, 10] and not first["terminals"].any()
    assert (np.diff(first["times"]) >= 0).all() and first["timeouts"].tolist() == [False, False, True]


def test_a_recording_has_a_largest_size(policy, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(recording, "LARGEST_FILE", 500)
    with served(policy, recorder=Recorder(tmp_path, 20_000)) as url, Client(url) as client:
        for _ in range(40):
            client.infer({"state": SEEN})
    assert "the recording ends, the server goes on" in capsys.readouterr().err
    sizes = [path.stat().st_size for path in tmp_path.iterdir()]
    assert 10_000 < sum(sizes) <= 20_000
    again = Recorder(tmp_path, 20_000)
    for episode in range(20):
        again.add(episode, {"state": SEEN}, np.zeros((2, ACTION_DIM), np.float32))
        again.end(episode)
    again.close()
    assert again.stopped and sum(path.stat().st_size for path in tmp_path.iterdir()) <= 20_000


def test_a_folder_that_cannot_be_written_is_one_sentence(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="Choose another --record"):
        Recorder(tmp_path / "file" / "folder", 10**9)


def test_a_full_disk_ends_the_recording_alone(policy, tmp_path, monkeypatch, capsys):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    with served(policy, recorder=Recorder(tmp_path, 10**9)) as url, Client(url) as client:
        monkeypatch.setattr(recording.np, "savez", full)
        client.infer({"state": SEEN})
        client.infer({"state": SEEN}, reset=True)
        client.infer({"state": SEEN}, reset=True)
    assert "No space left on device" in capsys.readouterr().err and not list(tmp_path.iterdir())
