//! Kubernetes and Istio resource types, strictly parsed.
