//! Pure choice of an endpoint for a service.
