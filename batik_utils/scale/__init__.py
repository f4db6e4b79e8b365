"""Ray, Fabric, MLflow and the benchmark."""
