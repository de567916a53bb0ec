"""What the mesh tells about itself: metrics, spans, trace context, the access log."""
