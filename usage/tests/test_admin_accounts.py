"""The list of accounts shows who may do what, and who still logs in."""

import pytest
from django.contrib.auth.models import Group, User
from django.test import Client
from django.urls import reverse

from usage.tests.staff import queries, text_of

pytestmark = pytest.mark.django_db

LIST = "admin:auth_user_changelist"


def test_the_list_shows_groups_activity_and_last_login(client: Client, admin_user: User) -> None:
    client.force_login(admin_user)
    user = User.objects.create_user("kim", is_active=False)
    user.groups.set(Group.objects.filter(name__startswith="Billing"))

    page = text_of(client.get(reverse(LIST)))

    for said in ("Billing admins, Billing staff, Billing viewers", "never", "Active", "Last login"):
        assert said in page


def test_the_list_reads_all_groups_at_once(admin_client: Client) -> None:
    admin_client.get(reverse(LIST))
    with queries() as few:
        admin_client.get(reverse(LIST))
    for number in range(5):
        User.objects.create_user(f"kim {number}").groups.set(Group.objects.all())

    with queries() as many:
        admin_client.get(reverse(LIST))

    assert len(few) == len(many) <= 15
