"""The docker engine: the pipeline's services as containers of stack/docker-compose.yml."""
