"""Prints what google-auth makes of each case on standard input: an ID token, or its refusal."""

import json
import os
import sys
import warnings

import google.auth
from google.auth import compute_engine, iam, impersonated_credentials
from google.auth.transport import requests
from google.oauth2 import credentials, id_token, service_account

warnings.simplefilter("ignore")  # of loading a file without looking at its type first
given = json.load(sys.stdin)

# For these the library has no setting. All else stands in the files, or in the environment.
account = given["iamCredentials"] + "/v1/projects/-/serviceAccounts/{}"
iam._IAM_ENDPOINT = account + ":generateAccessToken"
iam._IAM_IDTOKEN_ENDPOINT = account + ":generateIdToken"
credentials._GOOGLE_OAUTH2_TOKEN_ENDPOINT = given["oauthToken"]

request = requests.Request()


def refreshed(made):
    made.refresh(request)
    return made


def key_file(case):
    load = service_account.IDTokenCredentials.from_service_account_file
    return refreshed(load(case["file"], target_audience=case["audience"])).token


def user_file(case):
    return refreshed(credentials.Credentials.from_authorized_user_file(case["file"])).id_token


def impersonation(case):
    source, _ = google.auth.load_credentials_from_file(case["file"])
    target = impersonated_credentials.Credentials(
        source,
        target_principal=case["serviceAccount"],
        target_scopes=["https://www.googleapis.com/auth/cloud-platform"],
        delegates=case["delegates"],
    )
    made = impersonated_credentials.IDTokenCredentials(
        target, target_audience=case["audience"], include_email=True
    )
    return refreshed(made).token


def metadata_server(case):
    made = compute_engine.IDTokenCredentials(
        request, case["audience"], use_metadata_identity_endpoint=True
    )
    return refreshed(made).token


def fetch(case):
    os.environ["GOOGLE_APPLICATION_CREDENTIALS"] = case["file"]
    return id_token.fetch_id_token(request, case["audience"])


WAYS = {way.__name__: way for way in (key_file, user_file, impersonation, metadata_server, fetch)}


def outcome(case):
    try:
        return {"token": WAYS[case["way"]](case)}
    except Exception as error:
        return {"refusal": type(error).__name__ + ": " + str(error)}


print(json.dumps([outcome(case) for case in given["cases"]]))
