"""Throughput of ViT training, one honest measurement per setting: ladder, worker, routes."""
