"""The server side: ASGI and WSGI applications inside the mesh, and the server that ``proxyless serve`` runs."""
