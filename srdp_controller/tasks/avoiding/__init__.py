"""Steering the arm's tip through rows of posts that it must not touch, any way round them."""
