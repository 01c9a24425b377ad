"""Where an endpoint listens: on the loopback address unless there are keys."""

from mtp.config import ServeConfig
from serve.api_keys import KeyStore
from serve.deploy import _host


def test_without_a_key_an_open_address_is_not_used_and_with_one_it_is(tmp_path):
    config = ServeConfig(host="0.0.0.0", api_keys=str(tmp_path / "keys.json"))
    notes = []
    assert _host(config, notes.append)[0] == "127.0.0.1"
    assert "make one with `mtp keys add NAME`" in notes[0]
    KeyStore(tmp_path / "keys.json").add("client", None, None)
    assert _host(config, notes.append)[0] == "0.0.0.0"
    assert len(notes) == 1
