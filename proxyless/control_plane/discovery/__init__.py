"""What a mesh offers: its services, their endpoints, and the rules about them. Pure functions of a World."""
