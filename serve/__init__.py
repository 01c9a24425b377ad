"""Layer 5: the Ray Serve application. Ingress and engine share one deployment; training is never imported."""
