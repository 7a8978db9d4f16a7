"""GET /top-provider, for dashboards: limiter -> cached ranking -> the providers with the highest net fees."""

from typing import Annotated

from fastapi import APIRouter, Query, Request, Response
from pydantic import BaseModel, ConfigDict, Field

from project import wire
from project.openapi import problems
from project.providers.limiter import Limiter
from project.providers.ranking import DEPTH, Ranking
from project.security.door import GuardedRoute, caller_of, needs
from project.security.scopes import Scope


class TopProviderQuery(BaseModel):
    """The query of GET /top-provider; another parameter is refused."""

    model_config = ConfigDict(extra="forbid")

    limit: int = Field(10, ge=1, le=DEPTH, description="how many providers")


class ProviderTotal(BaseModel):
    """A provider with the sum of the net fees of its live lines."""

    provider_npi: str = Field(examples=["1497775530"], pattern="^[0-9]{10}$")
    net_fee: float = Field(description="USD, two decimals", examples=[116.85], json_schema_extra={"multipleOf": 0.01})


class ProviderRoutes:
    """What the route needs, and how it answers."""

    def __init__(self, ranking: Ranking, limiter: Limiter) -> None:
        self._ranking = ranking
        self._limiter = limiter

    async def top_provider(self, request: Request, query: Annotated[TopProviderQuery, Query()]) -> Response:
        """The `limit` providers with the highest net fees."""
        headers = await self._limiter.admit(_limited_by(request))
        best = await self._ranking.best()
        return wire.written_response(best.written(query.limit), headers)

    async def best_ten(self, request: Request) -> Response:
        """The same for a request without a query."""
        return await self.top_provider(request, _WITHOUT_A_QUERY)


_WITHOUT_A_QUERY = TopProviderQuery()


def router(handlers: ProviderRoutes) -> APIRouter:
    """The route over these handlers."""
    routes = APIRouter(tags=["providers"], route_class=GuardedRoute)
    routes.add_api_route(
        "/top-provider",
        handlers.top_provider,
        methods=["GET"],
        summary="The providers with the highest net fees",
        response_class=Response,
        responses={
            200: {
                "model": list[ProviderTotal],
                "description": "highest net fee first, ties by NPI; at most about a second old",
                "headers": {name: {"schema": {"type": "string"}} for name in ("RateLimit", "RateLimit-Policy")},
            },
            **problems(401, 403, 422, 429, 503),
        },
        **needs(Scope.PROVIDERS_READ),
    )
    return routes


def _limited_by(request: Request) -> str:
    """Whom the limiter counts: the key's name; without keys the peer's address, as the kernel gave it, not a header."""
    caller = caller_of(request)
    if caller.key_id is not None:
        return f"key:{caller.name}"
    return request.client.host if request.client else "unknown"
