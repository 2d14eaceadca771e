//! The production shape: `docker-compose.yml` and the files of `deploy/`.

mod papers;
mod running;
