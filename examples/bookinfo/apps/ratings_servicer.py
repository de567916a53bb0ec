"""ratings, for callers that speak gRPC: ``proxyless serve --grpc ratings_servicer:Ratings --service ratings-grpc``."""

import os
from typing import Any

from common import STARS, VERSION
from ratings_pb2 import Product, Stars
from ratings_pb2_grpc import RatingsServicer

import proxyless


class Ratings(RatingsServicer):
    async def Get(self, request: Product, context: Any) -> Stars:
        caller = proxyless.Mesh.peer(context)
        return Stars(ratings=STARS, version=VERSION, pid=os.getpid(), caller=caller or "")
