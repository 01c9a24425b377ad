"""The life of a local cluster: what `up`, `down` and their failures leave behind."""

import ray


def test_workers_find_the_source_folders_and_the_cluster_is_joined(ray_cluster):
    @ray.remote
    def where() -> str:
        import jobs
        import mtp.config

        return f"{mtp.config.__name__} {jobs.__name__}"

    assert ray.get(where.remote()) == "mtp.config jobs"
