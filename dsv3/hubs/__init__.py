"""What there is to fetch, and fetching it: the catalogue, the hubs' clients, the transfer."""
