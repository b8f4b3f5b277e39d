"""A local S3 server with one bucket and one user, for the tests of the blob store. Prints how to reach it as one line of JSON
and ends when its standard input does."""

import json
import os
import sys

#: Calls before this count need no credentials: those that make the user and the bucket below.
os.environ["INITIAL_NO_AUTH_ACTION_COUNT"] = "4"

import boto3
from moto.server import ThreadedMotoServer

server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
server.start()
host, port = server.get_host_and_port()
endpoint = f"http://{host}:{port}"


def client(service):
    return boto3.client(
        service, endpoint_url=endpoint, region_name="us-east-1", aws_access_key_id="setup", aws_secret_access_key="setup"
    )


allow = {"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "s3:*", "Resource": "*"}]}
iam = client("iam")
iam.create_user(UserName="tidewheel")
key = iam.create_access_key(UserName="tidewheel")["AccessKey"]
iam.put_user_policy(UserName="tidewheel", PolicyName="s3", PolicyDocument=json.dumps(allow))
client("s3").create_bucket(Bucket="blobs")
print(json.dumps({"endpoint": endpoint, "key": key["AccessKeyId"], "secret": key["SecretAccessKey"]}), flush=True)
sys.stdin.read()
server.stop()
