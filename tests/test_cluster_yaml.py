"""cluster.yaml against Ray's schema, AWS's request model and our own rules; no cloud and no network."""

from pathlib import Path

import pytest
import yaml

FILE = Path(__file__).resolve().parent.parent / "cluster.yaml"


@pytest.fixture
def config() -> dict:
    return yaml.safe_load(FILE.read_text())


def nodes(config: dict) -> dict[str, dict]:
    return {name: node["node_config"] for name, node in config["available_node_types"].items()}


def test_ray_accepts_it(config):
    from ray.autoscaler._private.util import prepare_config, validate_config

    validate_config(prepare_config(config))


def test_aws_knows_every_key_of_every_node(config):
    """Ray passes node_config on unread, so a misspelt key would be found only by a request that AWS refuses."""
    import botocore.session
    import botocore.validate

    ec2 = botocore.session.get_session().get_service_model("ec2")
    shape = ec2.operation_model("RunInstances").input_shape
    for name, node in nodes(config).items():
        report = botocore.validate.ParamValidator().validate({**node, "MinCount": 1, "MaxCount": 1}, shape)
        assert not report.has_errors(), f"{name}: {report.generate_report()}"


def test_nothing_is_open_and_nothing_is_plain(config):
    for name, node in nodes(config).items():
        assert node["SecurityGroupIds"], f"{name}: the group that Ray makes has SSH open to the world"
        assert node["MetadataOptions"]["HttpTokens"] == "required", f"{name} would answer IMDSv1"
        assert all(disk["Ebs"]["Encrypted"] is True for disk in node["BlockDeviceMappings"]), f"{name}: plain disk"
        assert node["IamInstanceProfile"], f"{name} could not write results to S3"
    assert any("RAY_AUTH_MODE=token" in command for command in config["initialization_commands"])
    assert any(target.endswith("/.ray/auth_token") for target in config["file_mounts"])
    starts = [command for command in config["head_start_ray_commands"] if "ray start" in command]
    assert starts and all("--dashboard-host=127.0.0.1" in command for command in starts)
    servers = [command for command in config["head_start_ray_commands"] if "mlflow server" in command]
    assert servers and all("--host 127.0.0.1" in command for command in servers)


def test_it_costs_nothing_while_it_does_nothing(config):
    types = config["available_node_types"]
    workers = [types[name] for name in types if name != config["head_node_type"]]
    assert workers and all(worker["min_workers"] == 0 for worker in workers)
    assert config["idle_timeout_minutes"] <= 30
    assert config["provider"]["cache_stopped_nodes"] is False
    # The head would otherwise be given learners and could not be the small machine that it is.
    assert types[config["head_node_type"]]["resources"] == {"CPU": 0, "GPU": 0}


def test_spot_comes_before_on_demand(config):
    priority = {
        "InstanceMarketOptions" in node["node_config"]: node["priority"]
        for name, node in config["available_node_types"].items()
        if name != config["head_node_type"]
    }
    assert priority[True] > priority[False]


def test_setup_installs_the_lock_and_nothing_else(config):
    assert config["setup_commands"] == ["make -C ~/lps env"]
    assert not any("pip install" in command for key, value in config.items() if "commands" in key for command in value)
