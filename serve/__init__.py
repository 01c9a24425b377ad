"""Layer 5: the Ray Serve application. Gateways speak HTTP, replicas decode; training is never imported."""
