"""Raw images on web servers, read by ranges over connections that stay open."""
