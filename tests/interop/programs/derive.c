/*
 * ECDH in the token: derive MODULE LABEL PEER, PEER the other side's point, uncompressed, in hex.
 *
 * The secret becomes an AES key that stays in the token; what it makes of sixteen zero bytes (ECB) is printed in hex.
 * The PIN comes in TOKEN_PIN.
 */
#include <dlfcn.h>
#include <p11-kit/pkcs11.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void must(const char *what, CK_RV rv)
{
    if (rv != CKR_OK) {
        fprintf(stderr, "derive: %s: 0x%lx\n", what, rv);
        exit(2);
    }
}

int main(int argc, char **argv)
{
    CK_FUNCTION_LIST *p11;
    CK_SESSION_HANDLE session;
    CK_SLOT_ID slots[4];
    CK_ULONG count = 4;
    char *pin = getenv("TOKEN_PIN");
    void *module = argc == 4 ? dlopen(argv[1], RTLD_NOW) : NULL;
    CK_RV (*list)(CK_FUNCTION_LIST **) = module ? (CK_RV(*)(CK_FUNCTION_LIST **))dlsym(module, "C_GetFunctionList") : NULL;
    if (!list || !pin)
        must("usage, or no module", 1);
    must("C_GetFunctionList", list(&p11));
    must("C_Initialize", p11->C_Initialize(NULL));
    must("C_GetSlotList", p11->C_GetSlotList(CK_TRUE, slots, &count));
    must("C_OpenSession", p11->C_OpenSession(slots[0], CKF_SERIAL_SESSION | CKF_RW_SESSION, NULL, NULL, &session));
    must("C_Login", p11->C_Login(session, CKU_USER, (CK_UTF8CHAR *)pin, strlen(pin)));

    CK_OBJECT_CLASS private = CKO_PRIVATE_KEY, secret = CKO_SECRET_KEY;
    CK_ATTRIBUTE wanted[] = {{CKA_CLASS, &private, sizeof private}, {CKA_LABEL, argv[2], strlen(argv[2])}};
    CK_OBJECT_HANDLE key = 0, derived = 0;
    must("C_FindObjectsInit", p11->C_FindObjectsInit(session, wanted, 2));
    must("C_FindObjects", p11->C_FindObjects(session, &key, 1, &count));
    must("C_FindObjectsFinal", p11->C_FindObjectsFinal(session));
    if (count != 1)
        must("no such key", 2);

    CK_BYTE peer[256];
    CK_ULONG size = strlen(argv[3]) / 2;
    for (CK_ULONG i = 0; i < size && i < sizeof peer; i++)
        sscanf(argv[3] + 2 * i, "%2hhx", &peer[i]);
    struct { CK_ULONG kdf, shared_size; CK_BYTE *shared; CK_ULONG public_size; CK_BYTE *public; } ecdh = {1, 0, NULL, size, peer};
    CK_MECHANISM derive = {CKM_ECDH1_DERIVE, &ecdh, sizeof ecdh}, ecb = {CKM_AES_ECB, NULL, 0};
    CK_BBOOL yes = CK_TRUE, no = CK_FALSE;
    CK_KEY_TYPE aes = CKK_AES;
    CK_ULONG length = 32;
    CK_ATTRIBUTE template[] = {{CKA_CLASS, &secret, sizeof secret}, {CKA_KEY_TYPE, &aes, sizeof aes}, {CKA_VALUE_LEN, &length, sizeof length},
                               {CKA_TOKEN, &no, 1}, {CKA_SENSITIVE, &yes, 1}, {CKA_EXTRACTABLE, &no, 1}, {CKA_ENCRYPT, &yes, 1}};
    must("C_DeriveKey", p11->C_DeriveKey(session, &derive, key, template, 7, &derived));

    CK_BYTE zeros[16] = {0}, made[16], value[64];
    CK_ATTRIBUTE read = {CKA_VALUE, value, sizeof value};
    if (p11->C_GetAttributeValue(session, derived, &read, 1) != CKR_ATTRIBUTE_SENSITIVE)
        must("the secret can be read", 3);
    must("C_EncryptInit", p11->C_EncryptInit(session, &ecb, derived));
    count = sizeof made;
    must("C_Encrypt", p11->C_Encrypt(session, zeros, sizeof zeros, made, &count));
    for (CK_ULONG i = 0; i < count; i++)
        printf("%02x", made[i]);
    must("C_Finalize", p11->C_Finalize(NULL));
    return 0;
}
